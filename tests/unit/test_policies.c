/* policies, folder, watcher: what is in the policy folders is what the core gets; a file that is broken, mended, moved or gone does
 * what its author expects; the watcher says so without being asked. */
#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/folder.h"
#include "app/policies.h"
#include "app/server.h"
#include "app/watcher.h"
#include "base/clock.h"
#include "base/log.h"
#include "rpc/rpc.h"
#include "turboci/v1/service.pb-c.h"

static const char FIRST[] = "return { select = function(ctx) return ctx.runners[1], 'first' end }\n";
static const char LAST[] = "return { select = function(ctx) return ctx.runners[#ctx.runners] end }\n";
static const char BROKEN[] = "return {\n  select = function(ctx) retrun 1 end\n}\n";
static const char WITH_LIBRARY[] =
    "local pick = require '_pick'\nreturn { select = function(ctx) return pick(ctx) end }\n";
static const char PICK_FIRST[] = "return function(ctx) return ctx.runners[1] end\n";
static const char PICK_LAST[] = "return function(ctx) return ctx.runners[#ctx.runners] end\n";

enum { GUARD_MS = 30000 };

typedef struct {
  char root[64];
  tci_str folders[2];
  tci_policies_options options;
  tci_policies *policies;
  tci_core *core;
  tci_arena arena;
  tci_ids changed;
  char message[1024];
  int stirred; /* eventfd */
  int64_t mono_us;
  int turns;
} world;

/* ---- files ---- */

static const char *at(world *w, const char *path) { return tci_fmt(&w->arena, "%s/%s", w->root, path); }

static void put(world *w, const char *path, const char *text) {
  FILE *file = fopen(at(w, path), "w");
  assert_non_null(file);
  assert_true(fputs(text, file) >= 0);
  assert_int_equal(fclose(file), 0);
}

static void take_away(world *w, const char *path) { assert_int_equal(unlink(at(w, path)), 0); }

static void make_folder(world *w, const char *path) { assert_int_equal(mkdir(at(w, path), 0700), 0); }

static void move(world *w, const char *from, const char *to) { assert_int_equal(rename(at(w, from), at(w, to)), 0); }

static void remove_tree(const char *path) {
  DIR *dir = opendir(path);
  const struct dirent *entry;
  while (dir && (entry = readdir(dir))) {
    char inside[600];
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    snprintf(inside, sizeof inside, "%s/%s", path, entry->d_name);
    struct stat st;
    if (lstat(inside, &st) == 0 && S_ISDIR(st.st_mode))
      remove_tree(inside);
    else
      unlink(inside);
  }
  if (dir) closedir(dir);
  rmdir(path);
}

/* ---- the world: folders one and two ---- */

static int setup(void **state) {
  world *w = calloc(1, sizeof *w);
  *state = w;
  strcpy(w->root, "/tmp/tci-policies-XXXXXX");
  if (!mkdtemp(w->root)) return -1;
  w->stirred = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  make_folder(w, "one");
  make_folder(w, "two");
  w->folders[0] = tci_str_from(at(w, "one"));
  w->folders[1] = tci_str_from(at(w, "two"));
  w->options = (tci_policies_options){.limits = tci_limits_default(), .folders = {w->folders, 2}};
  return 0;
}

static int teardown(void **state) {
  world *w = *state;
  tci_core_free(w->core);
  tci_policies_close(w->policies);
  remove_tree(w->root);
  close(w->stirred);
  tci_arena_deinit(&w->arena);
  free(w);
  return 0;
}

static void open_all(world *w) {
  tci_status status = tci_policies_open(&w->options, &w->policies, w->message, sizeof w->message);
  if (status.code != TCI_OK) fail_msg("%s", status.message);
}

static void is_refused(world *w, const char *part) {
  assert_int_not_equal(tci_policies_open(&w->options, &w->policies, w->message, sizeof w->message).code, TCI_OK);
  assert_null(w->policies);
  if (!strstr(w->message, part)) fail_msg("'%s' is not in '%s'", part, w->message);
}

/* A look to its end; the turns it took are in w->turns. */
static bool look(world *w, bool patient) {
  tci_look end = TCI_LOOK_GOES_ON;
  int64_t cpu_us;
  for (w->turns = 0; end == TCI_LOOK_GOES_ON; w->turns++) {
    end = tci_policies_look(w->policies, patient, w->mono_us, &w->changed, &cpu_us);
    assert_int_equal(cpu_us, 0); /* no fuse */
  }
  return end == TCI_LOOK_DIFFERS;
}

static bool reload(world *w) { return look(w, false); }

/* "a b c": the names in the set. */
static void runs(const world *w, const char *expected) {
  char names[1000] = "";
  const tci_policy_set *set = tci_policies_set(w->policies);
  assert_non_null(set);
  for (size_t i = 0; i < set->len; i++) {
    size_t len = strlen(names);
    snprintf(names + len, sizeof names - len, "%s%.*s", len ? " " : "", TCI_STR_ARG(set->policies[i]->name));
    assert_ptr_equal(tci_policy_find(set, set->policies[i]->name), set->policies[i]);
  }
  assert_string_equal(names, expected);
}

static void has_changed(const world *w, const char *expected) {
  char names[1000] = "";
  for (size_t i = 0; i < w->changed.len; i++) {
    size_t len = strlen(names);
    snprintf(names + len, sizeof names - len, "%s%.*s", len ? " " : "", TCI_STR_ARG(w->changed.items[i]));
  }
  assert_string_equal(names, expected);
}

/* The version of a policy, in the test's arena; "" when it does not run. */
static const char *version(world *w, const char *name) {
  const tci_policy *policy = tci_policy_find(tci_policies_set(w->policies), tci_str_from(name));
  return policy ? tci_str_z(&w->arena, policy->version) : "";
}

/* The n-th line of that name in the info. */
static const tci_policy_info *info(world *w, const char *name, size_t n) {
  tci_policy_info *all;
  size_t len;
  tci_core_free(w->core); /* it borrows the set */
  w->core = tci_core_new(&w->options.limits, tci_policies_set(w->policies));
  tci_policies_info(w->policies, w->core, &w->arena, &all, &len);
  for (size_t i = 0; i < len; i++)
    if (tci_str_eq(all[i].name, tci_str_from(name)) && n-- == 0) return &all[i];
  return NULL;
}

static void says(tci_str text, const char *part) {
  if (!memmem(text.ptr, text.len, part, strlen(part))) fail_msg("'%s' is not in '%.*s'", part, TCI_STR_ARG(text));
}

/* ---- the start ---- */

static void policies_are_files_by_name_and_nothing_else_is(void **state) {
  world *w = *state;
  put(w, "one/warm_first.lua", FIRST);
  put(w, "one/a-1.lua", LAST);
  put(w, "one/_library.lua", BROKEN);
  put(w, "one/.hidden.lua", BROKEN);
  put(w, "one/notes.txt", BROKEN);
  put(w, "one/.lua", BROKEN);
  put(w, "one/two words.lua", FIRST);
  make_folder(w, "one/folder.lua");
  assert_int_equal(symlink("warm_first.lua", at(w, "one/link.lua")), 0);
  assert_int_equal(symlink("nowhere", at(w, "one/dangling.lua")), 0);
  open_all(w);
  runs(w, "a-1 link warm_first");
  tci_policy_files files;
  tci_policy_files_find(&w->options.folders, &w->arena, &files);
  assert_int_equal(files.misnamed.len, 1);
  says(files.misnamed.items[0], "one/two words.lua");
  assert_null(info(w, "_library", 0));
  assert_int_equal(info(w, "a-1", 0)->hooks, 1u << TCI_HOOK_SELECT);
  assert_int_equal(info(w, "a-1", 0)->version.len, 16);
  assert_true(tci_str_eq(info(w, "a-1", 0)->path, tci_str_from(at(w, "one/a-1.lua"))));
}

static void of_equal_names_the_first_folder_counts(void **state) {
  world *w = *state;
  put(w, "two/same.lua", LAST);
  put(w, "two/other.lua", LAST);
  open_all(w);
  runs(w, "other same");
  const char *before = version(w, "same");
  put(w, "one/same.lua", FIRST);
  assert_true(reload(w));
  has_changed(w, "same");
  assert_string_not_equal(version(w, "same"), before);
  says(info(w, "same", 0)->path, "one/same.lua");
  take_away(w, "one/same.lua");
  assert_true(reload(w));
  has_changed(w, "same");
  assert_string_equal(version(w, "same"), before);
  says(info(w, "same", 0)->path, "two/same.lua");
}

static void a_broken_file_is_left_out_and_says_where_it_is_broken(void **state) {
  world *w = *state;
  put(w, "one/bad.lua", BROKEN);
  put(w, "one/good.lua", FIRST);
  open_all(w);
  runs(w, "good");
  const tci_policy_info *bad = info(w, "bad", 0);
  assert_non_null(bad);
  assert_int_equal(bad->version.len, 0);
  says(bad->error, "bad.lua:2:");
  assert_int_equal(info(w, "good", 0)->error.len, 0);
}

static void without_folders_and_attachments_there_is_no_set(void **state) {
  world *w = *state;
  w->options.folders.len = 0;
  open_all(w);
  assert_null(tci_policies_set(w->policies));
  assert_false(reload(w));
  assert_null(info(w, "any", 0));
}

static void an_attached_policy_has_to_be_there_at_the_start(void **state) {
  world *w = *state;
  put(w, "one/warm_first.lua", FIRST);
  put(w, "one/bad.lua", BROKEN);
  w->options.server = "warmfirst";
  is_refused(w, "policy 'warmfirst' (the server's default) is in none of the policies folders; known are: warm_first");
  w->options.server = "bad";
  is_refused(w, "bad.lua:2:");
  is_refused(w, "mend the file");
  w->options.server = "warm_first";
  tci_pair types[] = {{TCI_STR("build"), TCI_STR("warm_first")}, {TCI_STR("deploy"), TCI_STR("typo")}};
  w->options.types = (tci_pairs){types, 2};
  is_refused(w, "policy 'typo' (for runner type 'deploy')");
  w->options.types.len = 1;
  w->options.shadow = at(w, "candidate.lua");
  is_refused(w, "candidate.lua");
  put(w, "candidate.lua", BROKEN);
  is_refused(w, "candidate.lua:2:");
  put(w, "candidate.lua", LAST);
  open_all(w);
  const tci_policy_set *set = tci_policies_set(w->policies);
  assert_true(tci_str_eq(set->server, TCI_STR("warm_first")));
  assert_int_equal(set->types.len, 1);
  assert_true(tci_str_eq(set->shadow->name, TCI_STR("candidate")));
  const tci_policy_info *i = info(w, "warm_first", 0);
  assert_int_equal(i->attached_to.len, 2);
  assert_true(tci_str_eq(i->attached_to.items[0], TCI_STR("server")));
  assert_true(tci_str_eq(i->attached_to.items[1], TCI_STR("type:build")));
  assert_true(tci_str_eq(info(w, "candidate", 0)->attached_to.items[0], TCI_STR("shadow")));
}

static void a_folder_that_is_not_there_is_refused_by_name(void **state) {
  world *w = *state;
  w->folders[1] = tci_str_from(at(w, "three"));
  is_refused(w, "/three': No such file or directory; make it, or name another");
  w->options.folders.len = 0;
  w->options.server = "default";
  is_refused(w, "no policies folder is given");
}

static void more_policies_than_the_limit_are_passed_over(void **state) {
  world *w = *state;
  w->options.limits.policies_max = 2;
  put(w, "one/b.lua", FIRST);
  put(w, "two/c.lua", FIRST);
  open_all(w);
  put(w, "one/a.lua", FIRST);
  assert_false(reload(w));
  runs(w, "b c"); /* those that run stay */
  take_away(w, "two/c.lua");
  assert_true(reload(w)); /* and now there is room */
  has_changed(w, "c a");
  runs(w, "a b");
}

/* ---- changes ---- */

static void a_reload_that_finds_nothing_new_makes_no_set(void **state) {
  world *w = *state;
  put(w, "one/a.lua", FIRST);
  put(w, "one/bad.lua", BROKEN);
  open_all(w);
  const tci_policy_set *set = tci_policies_set(w->policies);
  const tci_policy *policy = set->policies[0];
  put(w, "one/a.lua", FIRST); /* written again, the same */
  for (int i = 0; i < 3; i++) {
    assert_false(reload(w));
    has_changed(w, "");
  }
  assert_ptr_equal(tci_policies_set(w->policies), set);
  assert_ptr_equal(set->policies[0], policy);
}

static void a_new_file_is_taken_over(void **state) {
  world *w = *state;
  open_all(w);
  runs(w, "");
  put(w, "two/fresh.lua", FIRST);
  assert_true(reload(w));
  has_changed(w, "fresh");
  runs(w, "fresh");
}

static void a_changed_file_gets_another_version_and_the_old_one_lives_until_it_is_forgotten(void **state) {
  world *w = *state;
  put(w, "one/a.lua", FIRST);
  open_all(w);
  const tci_policy_set *old = tci_policies_set(w->policies);
  const char *before = version(w, "a");
  put(w, "one/a.lua", LAST);
  assert_true(reload(w));
  has_changed(w, "a");
  assert_string_not_equal(version(w, "a"), before);
  assert_true(tci_str_eq(old->policies[0]->version, tci_str_from(before))); /* a core may still hold it */
  tci_policies_forget(w->policies);
  put(w, "one/a.lua", FIRST);
  assert_true(reload(w));
  assert_string_equal(version(w, "a"), before); /* the text is the version */
}

static void a_broken_file_leaves_the_old_policy_and_a_mended_one_replaces_it(void **state) {
  world *w = *state;
  put(w, "one/a.lua", FIRST);
  open_all(w);
  const tci_policy_set *set = tci_policies_set(w->policies);
  const char *before = version(w, "a");
  put(w, "one/a.lua", BROKEN);
  assert_false(reload(w));
  assert_ptr_equal(tci_policies_set(w->policies), set);
  has_changed(w, "");
  says(info(w, "a", 0)->error, "a.lua:2:");
  assert_true(tci_str_eq(info(w, "a", 0)->version, tci_str_from(before)));
  put(w, "one/a.lua", LAST);
  assert_true(reload(w));
  has_changed(w, "a");
  assert_int_equal(info(w, "a", 0)->error.len, 0);
  put(w, "one/a.lua", BROKEN);
  assert_false(reload(w));
  put(w, "one/a.lua", LAST); /* as it was */
  assert_false(reload(w));
  assert_int_equal(info(w, "a", 0)->error.len, 0);
}

static void a_file_that_was_always_broken_is_taken_over_once_it_is_mended(void **state) {
  world *w = *state;
  put(w, "one/a.lua", BROKEN);
  open_all(w);
  runs(w, "");
  put(w, "one/a.lua", FIRST);
  assert_true(reload(w));
  runs(w, "a");
  put(w, "one/b.lua", BROKEN);
  assert_false(reload(w));
  take_away(w, "one/b.lua");
  assert_false(reload(w));
  assert_null(info(w, "b", 0));
}

static void a_changed_library_changes_those_that_require_it(void **state) {
  world *w = *state;
  put(w, "one/_pick.lua", PICK_FIRST);
  put(w, "one/uses.lua", WITH_LIBRARY);
  put(w, "one/alone.lua", FIRST);
  open_all(w);
  const char *uses = version(w, "uses"), *alone = version(w, "alone");
  put(w, "one/_pick.lua", PICK_LAST);
  assert_true(reload(w));
  has_changed(w, "uses");
  assert_string_not_equal(version(w, "uses"), uses);
  assert_string_equal(version(w, "alone"), alone);
  take_away(w, "one/_pick.lua");
  assert_false(reload(w)); /* broken, not gone */
  runs(w, "alone uses");
  says(info(w, "uses", 0)->error, "_pick");
  put(w, "one/_pick.lua", PICK_FIRST);
  assert_true(reload(w));
  assert_string_equal(version(w, "uses"), uses);
}

static void a_file_that_is_gone_takes_its_policy_along_even_the_default(void **state) {
  world *w = *state;
  put(w, "one/main.lua", FIRST);
  put(w, "one/other.lua", FIRST);
  tci_pair type = {TCI_STR("build"), TCI_STR("main")};
  w->options.types = (tci_pairs){&type, 1};
  w->options.server = "main";
  open_all(w);
  take_away(w, "one/main.lua");
  assert_true(reload(w));
  has_changed(w, "main");
  runs(w, "other");
  assert_true(tci_str_eq(tci_policies_set(w->policies)->server, TCI_STR("main")));
  const tci_policy_info *i = info(w, "main", 0);
  assert_non_null(i);
  says(i->error, "the built-in default decides");
  assert_int_equal(i->version.len, 0);
  assert_int_equal(i->attached_to.len, 2);
  assert_null(info(w, "main", 1));
  put(w, "one/main.lua", LAST);
  assert_true(reload(w));
  runs(w, "main other");
  assert_int_equal(info(w, "main", 0)->error.len, 0);
}

static void a_folder_that_cannot_be_read_leaves_its_policies(void **state) {
  world *w = *state;
  put(w, "one/a.lua", FIRST);
  put(w, "two/a.lua", LAST);
  put(w, "two/b.lua", FIRST);
  open_all(w);
  const char *a = version(w, "a");
  move(w, "one", "away");
  put(w, "two/b.lua", LAST);
  assert_true(reload(w));
  has_changed(w, "b");
  assert_string_equal(version(w, "a"), a);
  make_folder(w, "one"); /* empty now: that one tells */
  assert_true(reload(w));
  has_changed(w, "a");
  assert_string_not_equal(version(w, "a"), a);
  says(info(w, "a", 0)->path, "two/a.lua");
}

static void the_shadow_follows_its_file(void **state) {
  world *w = *state;
  put(w, "one/a.lua", FIRST);
  put(w, "a.lua", FIRST); /* the same name is no matter */
  w->options.shadow = at(w, "a.lua");
  open_all(w);
  assert_non_null(tci_policies_set(w->policies)->shadow);
  assert_int_equal(info(w, "a", 0)->attached_to.len, 0);
  assert_true(tci_str_eq(info(w, "a", 1)->attached_to.items[0], TCI_STR("shadow")));
  put(w, "a.lua", LAST);
  assert_true(reload(w));
  has_changed(w, "a");
  assert_false(tci_str_eq(tci_policies_set(w->policies)->shadow->version, tci_str_from(version(w, "a"))));
  put(w, "a.lua", BROKEN);
  assert_false(reload(w));
  says(info(w, "a", 1)->error, "a.lua:2:");
  take_away(w, "a.lua");
  assert_true(reload(w));
  assert_null(tci_policies_set(w->policies)->shadow);
  says(info(w, "a", 1)->error, "gone");
  assert_false(reload(w));
  put(w, "a.lua", LAST);
  assert_true(reload(w));
  assert_non_null(tci_policies_set(w->policies)->shadow);
}

static void a_file_that_is_away_for_a_moment_takes_nothing_along(void **state) {
  world *w = *state;
  put(w, "one/a.lua", FIRST);
  put(w, "one/b.lua", FIRST);
  put(w, "two/b.lua", LAST);
  put(w, "s.lua", FIRST);
  w->options.shadow = at(w, "s.lua");
  open_all(w);
  const char *a = version(w, "a"), *b = version(w, "b");
  w->mono_us = 5000000;
  take_away(w, "one/a.lua");
  take_away(w, "one/b.lua");
  take_away(w, "s.lua");
  assert_false(look(w, true));
  assert_int_equal(tci_policies_due_us(w->policies), 7000000);
  w->mono_us = 6999999;
  assert_false(look(w, true));
  assert_string_equal(version(w, "a"), a);
  assert_string_equal(version(w, "b"), b); /* and not the other one of that name */
  assert_non_null(tci_policies_set(w->policies)->shadow);
  put(w, "one/a.lua", FIRST);
  w->mono_us = 7000000;
  assert_true(look(w, true));
  assert_int_equal(w->changed.len, 2);
  assert_string_equal(version(w, "a"), a);
  assert_string_not_equal(version(w, "b"), b);
  assert_null(tci_policies_set(w->policies)->shadow);
  assert_int_equal(tci_policies_due_us(w->policies), INT64_MAX);
  take_away(w, "one/a.lua"); /* it has all the time again */
  assert_false(look(w, true));
  assert_int_equal(tci_policies_due_us(w->policies), 9000000);
  put(w, "one/a.lua", "");
  assert_false(look(w, true)); /* cut, to be written anew */
  assert_int_equal(tci_policies_due_us(w->policies), INT64_MAX);
  assert_string_equal(version(w, "a"), a);
}

static void a_look_takes_as_many_turns_as_its_files_need(void **state) {
  world *w = *state;
  w->options.limits.policy_files_per_turn = 10;
  for (int i = 0; i < 35; i++) put(w, tci_fmt(&w->arena, "one/p%02d.lua", i), FIRST);
  open_all(w);
  const tci_policy_set *set = tci_policies_set(w->policies);
  for (int i = 0; i < 35; i++) put(w, tci_fmt(&w->arena, "one/p%02d.lua", i), LAST);
  take_away(w, "one/p00.lua");
  int64_t cpu_us;
  assert_int_equal(tci_policies_look(w->policies, false, 0, &w->changed, &cpu_us), TCI_LOOK_GOES_ON);
  tci_policies_forget(w->policies); /* nothing that is in force */
  assert_ptr_equal(tci_policies_set(w->policies), set);
  for (size_t i = 0; i < set->len; i++) assert_int_equal(set->policies[i]->version.len, 16);
  assert_true(look(w, true)); /* it goes on as it began */
  assert_int_equal(w->turns, 3);
  assert_int_equal(w->changed.len, 35);
  assert_int_equal(tci_policies_set(w->policies)->len, 34);
  assert_false(reload(w));
  assert_int_equal(w->turns, 4);
}

static void only_the_first_fault_of_a_hook_in_a_version_is_news(void **state) {
  world *w = *state;
  put(w, "one/a.lua", FIRST);
  open_all(w);
  tci_str a = TCI_STR("a"), old = tci_str_from(version(w, "a"));
  assert_true(tci_policies_first_fault(w->policies, a, old, TCI_HOOK_SELECT));
  assert_false(tci_policies_first_fault(w->policies, a, old, TCI_HOOK_SELECT));
  assert_true(tci_policies_first_fault(w->policies, a, old, TCI_HOOK_RETRY)); /* another hook is news */
  put(w, "one/a.lua", LAST);
  assert_true(reload(w));
  assert_false(tci_policies_first_fault(w->policies, a, old, TCI_HOOK_SELECT));
  assert_true(tci_policies_first_fault(w->policies, a, tci_str_from(version(w, "a")), TCI_HOOK_SELECT));
  assert_false(tci_policies_first_fault(w->policies, TCI_STR("nobody"), old, TCI_HOOK_SELECT));
}

/* ---- the watcher ---- */

static void on_stir(void *ctx) {
  const uint64_t one = 1;
  assert_int_equal(write(((world *)ctx)->stirred, &one, sizeof one), sizeof one);
}

/* How often it called, at least once. */
static uint64_t stirs(world *w, const char *what) {
  struct pollfd fd = {.fd = w->stirred, .events = POLLIN};
  if (poll(&fd, 1, GUARD_MS) != 1) fail_msg("nobody said: %s", what);
  uint64_t n = 0;
  assert_int_equal(read(w->stirred, &n, sizeof n), sizeof n);
  return n;
}

static void the_watcher_tells_what_is_written_moved_and_deleted(void **state) {
  world *w = *state;
  tci_folder_watcher *watcher = tci_folder_watcher_open(&w->options.folders, on_stir, w);
  assert_non_null(watcher);
  put(w, "one/a.lua", FIRST);
  stirs(w, "a new file");
  put(w, "two/.b.tmp", FIRST);
  move(w, "two/.b.tmp", "two/b.lua");
  stirs(w, "a file that was moved in");
  move(w, "one/a.lua", "a.lua");
  stirs(w, "a file that was moved out");
  take_away(w, "two/b.lua");
  stirs(w, "a deleted file");
  assert_int_equal(symlink("../a.lua", at(w, "one/a.lua")), 0);
  stirs(w, "a link");
  tci_folder_watcher_close(watcher);
  put(w, "two/b.lua", FIRST);
  uint64_t n;
  assert_int_equal(read(w->stirred, &n, sizeof n), -1); /* it is closed */
}

static void what_is_no_script_does_not_wake_the_engine(void **state) {
  world *w = *state;
  tci_folder_watcher *watcher = tci_folder_watcher_open(&w->options.folders, on_stir, w);
  put(w, "one/notes.txt", FIRST);
  put(w, "one/.a.lua.swp", FIRST);
  take_away(w, "one/notes.txt");
  make_folder(w, "one/deeper");
  put(w, "elsewhere.lua", FIRST);
  put(w, "one/a.lua", FIRST); /* made, then closed: only that counts */
  uint64_t n = stirs(w, "the only script");
  tci_folder_watcher_close(watcher);
  assert_int_equal(n, 1);
}

static void a_folder_that_is_replaced_is_watched_again(void **state) {
  world *w = *state;
  tci_folder_watcher *watcher = tci_folder_watcher_open(&w->options.folders, on_stir, w);
  move(w, "one", "away");
  stirs(w, "a folder that went");
  make_folder(w, "one");
  stirs(w, "a folder that came");
  put(w, "one/a.lua", FIRST);
  stirs(w, "a file in the folder that came");
  take_away(w, "one/a.lua");
  stirs(w, "a deleted file");
  assert_int_equal(rmdir(at(w, "one")), 0);
  stirs(w, "a deleted folder");
  make_folder(w, "fresh");
  put(w, "fresh/b.lua", FIRST);
  move(w, "fresh", "one");
  stirs(w, "a folder that was moved in");
  put(w, "one/b.lua", LAST);
  stirs(w, "a file in the folder that was moved in");
  tci_folder_watcher_close(watcher);
}

static void a_folder_that_is_a_link_may_point_elsewhere(void **state) {
  world *w = *state;
  make_folder(w, "v1");
  make_folder(w, "v2");
  assert_int_equal(symlink("v1", at(w, "current")), 0);
  w->folders[0] = tci_str_from(at(w, "current"));
  tci_folder_watcher *watcher = tci_folder_watcher_open(&w->options.folders, on_stir, w);
  put(w, "v1/a.lua", FIRST);
  stirs(w, "a file behind the link");
  assert_int_equal(symlink("v2", at(w, "next")), 0);
  move(w, "next", "current");
  stirs(w, "another link");
  put(w, "v2/a.lua", FIRST);
  stirs(w, "a file behind the other link");
  tci_folder_watcher_close(watcher);
}

/* ---- the server ---- */

typedef struct {
  world *w;
  tci_code code;
  tci_buf body;
} answer;

static void on_answer(void *ctx, tci_status status, tci_str message) {
  answer *a = ctx;
  a->code = status.code;
  tci_buf_add(&a->body, message);
  on_stir(a->w);
}

/* The error and the version of the server's only policy, apart by a space. */
static const char *ask_server(world *w, tci_rpc_client *client, const char *address) {
  answer a = {.w = w};
  const tci_rpc_sink sink = {.ctx = &a, .on_done = on_answer};
  tci_rpc_start(client, address, "/turboci.v1.TurboCIOrchestrator/ListPolicies", TCI_STR(""), GUARD_MS * 1000, false,
                &sink);
  stirs(w, "an answer of the server");
  assert_int_equal(a.code, TCI_OK);
  Turboci__V1__ListPoliciesResponse *r =
      turboci__v1__list_policies_response__unpack(NULL, a.body.len, (const uint8_t *)a.body.ptr);
  assert_non_null(r);
  assert_int_equal(r->n_policies, 1);
  const char *text = tci_fmt(&w->arena, "%s %s", r->policies[0]->error, r->policies[0]->version);
  turboci__v1__list_policies_response__free_unpacked(r, NULL);
  tci_buf_deinit(&a.body);
  return text;
}

static const char *wait_for_change(world *w, tci_rpc_client *client, const char *address, const char *from) {
  for (int64_t end_us = tci_clock_mono_us() + GUARD_MS * 1000; tci_clock_mono_us() < end_us;) {
    const char *now = ask_server(w, client, address);
    if (strcmp(now, from) != 0) return now;
  }
  fail_msg("the server did not see that the file changed");
  return NULL;
}

static void a_server_takes_changes_over_by_itself(void **state) {
  world *w = *state;
  put(w, "one/a.lua", FIRST);
  w->options.server = "a";
  tci_server_options options = {
      .limits = w->options.limits, .database = ":memory:", .listen = "127.0.0.1:0", .policies = w->options};
  tci_server *server;
  if (tci_server_start(&options, &server, w->message, sizeof w->message).code != TCI_OK) fail_msg("%s", w->message);
  const char *address = tci_server_address(server);
  tci_rpc *rpc = tci_rpc_open();
  tci_rpc_client *client = tci_rpc_client_open(rpc, NULL);
  const char *first = ask_server(w, client, address);
  put(w, "one/a.lua", BROKEN);
  const char *broken = wait_for_change(w, client, address, first);
  assert_non_null(strstr(broken, "a.lua:2:"));
  assert_string_equal(strrchr(broken, ' '), first); /* its version goes on */
  put(w, "one/.a.tmp", LAST);
  move(w, "one/.a.tmp", "one/a.lua");
  const char *mended = wait_for_change(w, client, address, broken);
  assert_int_equal(mended[0], ' ');
  assert_string_not_equal(mended, first);
  tci_rpc_client_close(client);
  tci_rpc_close(rpc);
  put(w, "one/a.lua", FIRST); /* nobody waits for it any more */
  tci_server_stop(server);
}

static void a_server_without_its_folder_does_not_start(void **state) {
  world *w = *state;
  w->folders[1] = tci_str_from(at(w, "three"));
  tci_server_options options = {
      .limits = w->options.limits, .database = ":memory:", .listen = "127.0.0.1:0", .policies = w->options};
  tci_server *server;
  assert_int_equal(tci_server_start(&options, &server, w->message, sizeof w->message).code, TCI_NOT_FOUND);
  assert_null(server);
  assert_non_null(strstr(w->message, "/three'"));
}

#define CLAIM(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void) {
  tci_log_set_level(TCI_LOG_OFF); /* broken files are warnings, and meant here */
  const struct CMUnitTest tests[] = {
      CLAIM(policies_are_files_by_name_and_nothing_else_is),
      CLAIM(of_equal_names_the_first_folder_counts),
      CLAIM(a_broken_file_is_left_out_and_says_where_it_is_broken),
      CLAIM(without_folders_and_attachments_there_is_no_set),
      CLAIM(an_attached_policy_has_to_be_there_at_the_start),
      CLAIM(a_folder_that_is_not_there_is_refused_by_name),
      CLAIM(more_policies_than_the_limit_are_passed_over),
      CLAIM(a_reload_that_finds_nothing_new_makes_no_set),
      CLAIM(a_new_file_is_taken_over),
      CLAIM(a_changed_file_gets_another_version_and_the_old_one_lives_until_it_is_forgotten),
      CLAIM(a_broken_file_leaves_the_old_policy_and_a_mended_one_replaces_it),
      CLAIM(a_file_that_was_always_broken_is_taken_over_once_it_is_mended),
      CLAIM(a_changed_library_changes_those_that_require_it),
      CLAIM(a_file_that_is_gone_takes_its_policy_along_even_the_default),
      CLAIM(a_folder_that_cannot_be_read_leaves_its_policies),
      CLAIM(the_shadow_follows_its_file),
      CLAIM(a_file_that_is_away_for_a_moment_takes_nothing_along),
      CLAIM(a_look_takes_as_many_turns_as_its_files_need),
      CLAIM(only_the_first_fault_of_a_hook_in_a_version_is_news),
      CLAIM(the_watcher_tells_what_is_written_moved_and_deleted),
      CLAIM(what_is_no_script_does_not_wake_the_engine),
      CLAIM(a_folder_that_is_replaced_is_watched_again),
      CLAIM(a_folder_that_is_a_link_may_point_elsewhere),
      CLAIM(a_server_takes_changes_over_by_itself),
      CLAIM(a_server_without_its_folder_does_not_start),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
