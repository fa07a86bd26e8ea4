/* quarantine and salvage: a plan that is set aside is named to whoever asks for it, and what it held stays held. */
#include "core_test.h"

#include "core/salvage.h"

/* Every stage wants the key "prod", which one may hold at a time. */
static void one_at_a_time(void *self, tci_hook hook, const tci_question *q, tci_decision *out) {
  (void)self;
  tci_assert(hook == TCI_HOOK_ADMIT);
  out->keys = tci_arena_array(q->arena, tci_admission, 1);
  out->keys[0] = (tci_admission){TCI_STR("prod"), 1};
  out->keys_len = 1;
}

static void with_key(fx *f) {
  fx_policy(f, 1u << TCI_HOOK_ADMIT, one_at_a_time);
  fx_register(f, "r", "go", "sync", 0, 86400000);
  fx_create(f);
}

static void quarantine(fx *f, uint64_t key, const char *id, tci_str keys) {
  tci_event event = {.kind = TCI_EVENT_QUARANTINE};
  event.quarantine = (tci_quarantine){key, tci_str_from(id), TCI_STR("a page was lost"), keys};
  fx_step(f, &event);
}

static tci_str encoded(fx *f, const char *key) {
  tci_str id = tci_str_from(key);
  tci_buf buf = {0};
  tci_ids_encode((tci_ids){&id, 1}, &buf);
  tci_str copy = tci_str_copy(&f->arena, tci_buf_str(&buf));
  tci_buf_deinit(&buf);
  return copy;
}

static void whoever_names_it_is_told_so(void **state) {
  fx *f = *state;
  with_key(f);
  quarantine(f, 7, "lost", (tci_str){0});
  f->plan_id = TCI_STR("lost");
  fx_refuses(f, TCI_DATA_LOSS, "was set aside, since its journal is damaged (a page was lost)", "s runner=go");
  tci_command get = {.kind = TCI_COMMAND_GET_PLAN, .plan_id = TCI_STR("lost")};
  fx_refuses_command(f, TCI_DATA_LOSS, "restore the journal from a backup", get);
  fx_refuses_command(f, TCI_DATA_LOSS, "was set aside",
                     fx_complete_command(f, TCI_STR("lost:0:1:0123456789abcdef0123456789abcdef"), "FINAL"));
  get.plan_id = TCI_STR("other");
  fx_refuses_command(f, TCI_NOT_FOUND, "no work plan", get);
}

static void its_keys_stay_held_also_after_a_restart(void **state) {
  fx *f = *state;
  with_key(f);
  quarantine(f, 7, "lost", encoded(f, "prod"));
  fx_write(f, "s runner=go");
  fx_told(f, "");
  fx_restart(f, TCI_EVENT_RESTARTED);
  fx_told(f, "");
  assert_true(tci_core_is_set_aside(f->core, 7));
  assert_false(tci_core_is_set_aside(f->core, 8));
  assert_int_equal(tci_key_live(f->core, TCI_STR("prod")), 1);
}

static void it_is_set_aside_once(void **state) {
  fx *f = *state;
  with_key(f);
  quarantine(f, 7, "lost", encoded(f, "prod"));
  quarantine(f, 7, "lost", encoded(f, "prod"));
  assert_int_equal(tci_core_set_aside_len(f->core), 1);
  assert_int_equal(tci_key_live(f->core, TCI_STR("prod")), 1);
  uint64_t key;
  assert_true(tci_str_eq(tci_core_set_aside(f->core, 0, &key), TCI_STR("lost")));
  assert_int_equal(key, 7);
}

/* The keys that the records of the fixture's plan still tell of; one record is left out. */
static const char *salvaged(fx *f, size_t without) {
  tci_salvage *salvage = tci_salvage_new();
  uint64_t key = fx_plan(f)->key;
  size_t n = 0;
  for (size_t i = 0; i < f->journal.len; i++) {
    const fx_stored *r = &f->journal.items[i];
    if (r->plan_key == key && ++n != without) tci_salvage_add(salvage, (tci_str){r->bytes, r->bytes_len});
  }
  tci_salvage_add(salvage, TCI_STR("gibberish"));
  tci_buf keys = {0};
  tci_salvage_keys(salvage, &keys);
  tci_salvage_free(salvage);
  tci_ids ids;
  assert_true(tci_ids_decode(tci_buf_str(&keys), &f->arena, &ids));
  const char *text = "";
  for (size_t i = 0; i < ids.len; i++) text = tci_fmt(&f->arena, "%s%.*s ", text, TCI_STR_ARG(ids.items[i]));
  tci_buf_deinit(&keys);
  return text;
}

static void what_ran_still_holds_its_keys_and_what_ended_does_not(void **state) {
  fx *f = *state;
  with_key(f);
  fx_write(f, "s runner=go; t runner=go");
  fx_told(f, "s->r ");
  assert_string_equal(salvaged(f, 0), "prod ");
  fx_answers(f, "s", "FINAL");
  fx_told(f, "t->r ");
  assert_string_equal(salvaged(f, 0), "prod "); /* t's */
  fx_answers(f, "t", "FINAL");
  assert_string_equal(salvaged(f, 0), "");
  assert_string_equal(salvaged(f, 4), "prod "); /* t's end is what was lost: in doubt it runs */
}

static void a_plan_that_was_loaded_in_part_leaves_nothing(void **state) {
  fx *f = *state;
  with_key(f);
  fx_write(f, "@c; s runner=go checks=c; t runner=go after=s");
  fx_told(f, "s->r ");
  tci_core *core = tci_core_new(&f->limits, f->policies);
  for (size_t i = 0; i + 1 < f->journal.len; i++) {
    const fx_stored *r = &f->journal.items[i];
    tci_record record = {r->plan_key, r->sequence, {r->bytes, r->bytes_len}, {r->plan_id, r->plan_id_len}, r->settled};
    assert_int_equal(tci_core_load(core, &record).code, TCI_OK);
  }
  uint64_t key = fx_plan(f)->key;
  tci_core_forget(core, key);
  tci_core_forget(core, key); /* it is gone already */
  assert_false(tci_core_has_plan(core, f->plan_id));
  tci_event event = {.kind = TCI_EVENT_RESTARTED, .now = f->now};
  tci_update update = {0};
  tci_core_step(core, &event, &update);
  tci_update_deinit(&update);
  const char *broken = tci_core_check(core, &f->arena);
  if (broken) fail_msg("%s", broken);
  tci_core_free(core);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(whoever_names_it_is_told_so),
      CLAIM(its_keys_stay_held_also_after_a_restart),
      CLAIM(it_is_set_aside_once),
      CLAIM(what_ran_still_holds_its_keys_and_what_ended_does_not),
      CLAIM(a_plan_that_was_loaded_in_part_leaves_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
