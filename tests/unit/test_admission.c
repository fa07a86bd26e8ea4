/* admission: keys that only so many may hold at once, over all plans. */
#include "core_test.h"

static int64_t limit_of_odd, limit_of_all;
static bool refuses_select;

/* The key is the stage's id up to a dash: "deploy-1" wants "deploy". Stages without a dash want none. */
static void keyed(void *self, tci_hook hook, const tci_question *q, tci_decision *out) {
  (void)self;
  if (hook == TCI_HOOK_SELECT) {
    out->runner = q->candidates[0];
    tci_str name = q->stage->node.id;
    out->wait = refuses_select && (tci_str_eq(name, TCI_STR("deploy-0")) || tci_str_eq(name, TCI_STR("late")));
    return;
  }
  tci_str id = q->stage->node.id;
  const char *dash = memchr(id.ptr, '-', id.len);
  if (!dash) return;
  out->keys = tci_arena_array(q->arena, tci_admission, 1);
  out->keys_len = 1;
  bool odd = limit_of_odd && id.ptr[id.len - 1] % 2;
  out->keys[0] = (tci_admission){{id.ptr, (size_t)(dash - id.ptr)}, odd ? limit_of_odd : limit_of_all};
}

static void with_keys(fx *f, int64_t limit) {
  limit_of_all = limit;
  limit_of_odd = 0;
  refuses_select = false;
  fx_policy(f, 1u << TCI_HOOK_ADMIT | 1u << TCI_HOOK_SELECT, keyed);
  fx_create(f);
}

static void write_deploys(fx *f, int from, int to, const char *type) {
  char text[4000] = "";
  size_t at = 0;
  for (int i = from; i < to; i++) at += (size_t)snprintf(text + at, sizeof text - at, "deploy-%d runner=%s;", i, type);
  fx_write(f, text);
}

static void only_so_many_hold_a_key_at_once(void **state) {
  fx *f = *state;
  with_keys(f, 2);
  fx_register(f, "r", "go", "sync", 0, 0);
  write_deploys(f, 0, 5, "go");
  fx_write(f, "free runner=go");
  fx_told(f, "deploy-0->r deploy-1->r free->r "); /* those who want no key are not held up */
  fx_answers(f, "deploy-1", "FINAL");
  fx_told(f, "deploy-2->r ");
  fx_answers(f, "deploy-0", "FINAL failure=x"); /* however it ends */
  fx_answers(f, "deploy-2", "FINAL");
  fx_told(f, "deploy-3->r deploy-4->r ");
}

static void a_key_counts_over_all_plans(void **state) {
  fx *f = *state;
  with_keys(f, 1);
  fx_register(f, "r", "go", "sync", 0, 0);
  write_deploys(f, 0, 1, "go");
  tci_str first = f->plan_id;
  fx_create(f);
  write_deploys(f, 1, 2, "go");
  fx_told(f, "deploy-0->r ");
  f->plan_id = first;
  fx_answers(f, "deploy-0", "FINAL");
  fx_told(f, "deploy-1->r ");
}

static void a_free_key_goes_by_priority_then_by_age_over_both_modes(void **state) {
  fx *f = *state;
  with_keys(f, 1);
  fx_register(f, "r", "go", "both", 0, 0);
  fx_write(f, "deploy-0 runner=go");
  fx_write(f,
           "deploy-1 runner=go; deploy-2 runner=go mode=async priority=3; deploy-3 runner=go priority=3;"
           "deploy-4 runner=go priority=7; deploy-5 runner=go mode=async; deploy-6 runner=go priority=3");
  static const char *const order[] = {"deploy-0", "deploy-4", "deploy-2", "deploy-3",
                                      "deploy-6", "deploy-1", "deploy-5"};
  for (int i = 0; i < 7; i++) {
    fx_told(f, tci_fmt(&f->arena, "%s->r ", order[i]));
    if (fx_stage(f, order[i])->mode == TCI_MODE_ASYNC) {
      fx_accepts(f, order[i], true);
      fx_completes(f, order[i], "FINAL");
    } else {
      fx_answers(f, order[i], "FINAL");
    }
  }
}

static void different_keys_do_not_meet(void **state) {
  fx *f = *state;
  with_keys(f, 1);
  fx_register(f, "r", "go", "sync", 0, 0);
  fx_write(f, "a-1 runner=go; b-1 runner=go; a-2 runner=go");
  fx_told(f, "a-1->r b-1->r ");
}

static void the_first_of_every_queue_may_try_when_a_key_is_free(void **state) {
  fx *f = *state;
  with_keys(f, 1);
  fx_register(f, "r", "go", "sync", 0, 0);
  fx_register(f, "q", "py", "sync", 1, 0);
  write_deploys(f, 0, 1, "go");
  fx_write(f, "busy runner=py");
  write_deploys(f, 1, 2, "py");
  fx_answers(f, "busy", "FINAL"); /* q has room now, the key is taken */
  write_deploys(f, 2, 3, "go");
  fx_register(f, "q", "py", "async", 1, 0); /* nobody takes sync py work any more */
  fx_told(f, "deploy-0->r busy->q ");
  fx_answers(f, "deploy-0", "FINAL");
  fx_told(f, "deploy-2->r "); /* deploy-1 was first, and has no runner */
}

static void who_does_not_take_the_key_passes_it_on(void **state) {
  fx *f = *state;
  with_keys(f, 1);
  fx_register(f, "r", "go", "sync", 0, 0);
  write_deploys(f, 7, 8, "go");
  write_deploys(f, 0, 3, "go");
  fx_told(f, "deploy-7->r ");
  refuses_select = true; /* deploy-0, the first in the queue, is told to wait */
  fx_answers(f, "deploy-7", "FINAL");
  fx_drain(f);
  fx_told(f, "deploy-1->r ");
  fx_is(f, "deploy-0", "ATTEMPTING 1:PENDING/PENDING");
}

/* "ab-1" wants the keys "a" and "b". */
static void lettered(void *self, tci_hook hook, const tci_question *q, tci_decision *out) {
  (void)self;
  if (hook == TCI_HOOK_SELECT) out->runner = q->candidates[0];
  tci_str id = q->stage->node.id;
  if (hook != TCI_HOOK_ADMIT || !memchr(id.ptr, '-', id.len)) return;
  out->keys = tci_arena_array(q->arena, tci_admission, id.len);
  for (const char *at = id.ptr; *at != '-'; at++) out->keys[out->keys_len++] = (tci_admission){{at, 1}, 1};
}

static void who_lacks_another_key_passes_this_one_on(void **state) {
  fx *f = *state;
  fx_policy(f, 1u << TCI_HOOK_ADMIT | 1u << TCI_HOOK_SELECT, lettered);
  with_runner(f);
  fx_write(f, "a-0 runner=go; b-0 runner=go; ab-1 runner=go; a-2 runner=go");
  fx_told(f, "a-0->r b-0->r ");
  fx_answers(f, "a-0", "FINAL"); /* ab-1 was first, and still lacks b */
  fx_told(f, "a-2->r ");
  fx_answers(f, "b-0", "FINAL");
  fx_answers(f, "a-2", "FINAL");
  fx_told(f, "ab-1->r ");
}

static void a_key_that_is_named_twice_is_held_once(void **state) {
  fx *f = *state;
  fx_policy(f, 1u << TCI_HOOK_ADMIT | 1u << TCI_HOOK_SELECT, lettered);
  with_runner(f);
  fx_write(f, "aba-0 runner=go; a-1 runner=go");
  fx_told(f, "aba-0->r ");
  assert_int_equal(tci_key_live(f->core, TCI_STR("a")), 1);
  fx_answers(f, "aba-0", "FINAL");
  fx_told(f, "a-1->r ");
}

static void who_is_gone_passes_the_key_on(void **state) {
  fx *f = *state;
  fx_policy(f, 1u << TCI_HOOK_ADMIT | 1u << TCI_HOOK_SELECT, lettered);
  fx_create(f);
  fx_register(f, "r", "go", "sync", 2, 0);
  fx_write(f, "a-0 runner=go; a-1 runner=go attempts=1; a-2 runner=go; x runner=go");
  fx_told(f, "a-0->r x->r ");
  fx_register(f, "r", "go", "sync", 1, 0);
  fx_answers(f, "a-0", "FINAL"); /* a-1 may try, and r has no room */
  tci_attempt *a = fx_attempt(f, "a-1");
  a->queue_ms = 500;
  a->queue_mono_us = f->now.mono_us + 500000;
  tci_attempt_arm_queued(f->core, a);
  fx_advance(f, 500);
  fx_is(f, "a-1", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!TIMEOUT");
  fx_register(f, "r", "go", "sync", 2, 0);
  fx_told(f, "a-2->r ");
}

static void a_key_that_is_passed_on_at_the_end_of_a_turn_is_not_lost(void **state) {
  fx *f = *state;
  f->limits.policy_asks_per_turn = 1;
  with_keys(f, 1);
  fx_register(f, "r", "go", "sync", 0, 0);
  write_deploys(f, 7, 8, "go");
  fx_drain(f);
  write_deploys(f, 0, 2, "go");
  fx_drain(f);
  fx_told(f, "deploy-7->r ");
  refuses_select = true;
  fx_write(f, "late runner=go");
  fx_drain(f);
  fx_answers(f, "deploy-7",
             "FINAL"); /* deploy-0 is told to wait, and nothing more can be asked; the look is at "late" */
  fx_drain(f);
  fx_told(f, "deploy-1->r ");
}

static void limits_may_differ_for_the_same_key(void **state) {
  fx *f = *state;
  with_keys(f, 1);
  limit_of_odd = 3;
  fx_register(f, "r", "go", "sync", 0, 0);
  write_deploys(f, 1, 4, "go");
  write_deploys(f, 6, 7, "go");
  write_deploys(f, 9, 10, "go");
  fx_told(f, "deploy-1->r deploy-3->r deploy-9->r ");
  write_deploys(f, 11, 12, "go"); /* behind two that need the key for themselves */
  fx_answers(f, "deploy-1", "FINAL");
  fx_told(f, "deploy-11->r ");
  fx_answers(f, "deploy-3", "FINAL");
  fx_answers(f, "deploy-9", "FINAL");
  fx_told(f, "");
  fx_answers(f, "deploy-11", "FINAL");
  fx_told(f, "deploy-2->r ");
}

static void keys_are_held_across_a_restart(void **state) {
  fx *f = *state;
  with_keys(f, 1);
  fx_register(f, "r", "go", "async", 0, 0);
  fx_write(f, "deploy-0 runner=go mode=async; deploy-1 runner=go mode=async");
  fx_accepts(f, "deploy-0", true);
  fx_restart(f, TCI_EVENT_RESTARTED);
  fx_told(f, "deploy-0->r ");
  assert_int_equal(tci_key_live(f->core, TCI_STR("deploy")), 1);
  fx_completes(f, "deploy-0", "FINAL");
  fx_told(f, "deploy-1->r ");
  assert_int_equal(tci_key_live(f->core, TCI_STR("deploy")), 1);
  fx_accepts(f, "deploy-1", true);
  fx_completes(f, "deploy-1", "FINAL");
  assert_int_equal(tci_key_live(f->core, TCI_STR("deploy")), 0);
  assert_null(tci_map_get(&f->core->keys, TCI_STR("deploy"))); /* forgotten */
}

static void other_policies_let_go_of_who_is_parked(void **state) {
  fx *f = *state;
  with_keys(f, 1);
  fx_register(f, "r", "go", "sync", 0, 0);
  write_deploys(f, 0, 4, "go");
  fx_step(f, &(tci_event){.kind = TCI_EVENT_POLICIES, .policies = NULL});
  fx_told(f, "deploy-0->r deploy-1->r deploy-2->r deploy-3->r ");
}

static void who_is_parked_may_run_out_of_time(void **state) {
  fx *f = *state;
  with_keys(f, 1);
  fx_register(f, "r", "go", "sync", 0, 0);
  write_deploys(f, 0, 2, "go");
  tci_attempt *a = fx_attempt(f, "deploy-1");
  a->queue_ms = 500; /* as its timeout hook could have said */
  a->queue_mono_us = f->now.mono_us + 500000;
  tci_attempt_arm_queued(f->core, a);
  fx_advance(f, 500);
  fx_is(f, "deploy-1", "ATTEMPTING 1:INCOMPLETE/FAILED!TIMEOUT 2:PENDING/PENDING");
  fx_advance(f, 2000);
  fx_answers(f, "deploy-0", "FINAL");
  fx_told(f, "deploy-0->r deploy-1->r ");
}

static void priority_and_age_hold_among_those_who_come_back(void **state) {
  fx *f = *state;
  with_keys(f, 1);
  fx_register(f, "r", "go", "sync", 1, 0);
  write_deploys(f, 0, 3, "go");
  fx_write(f, "high-1 runner=go priority=5; plain runner=go");
  fx_told(f, "deploy-0->r ");
  fx_answers(f, "deploy-0", "FINAL");
  fx_told(f, "high-1->r ");
  fx_answers(f, "high-1", "FINAL");
  fx_told(f, "deploy-1->r "); /* before 'plain', which came later */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(only_so_many_hold_a_key_at_once),
      CLAIM(a_key_counts_over_all_plans),
      CLAIM(a_free_key_goes_by_priority_then_by_age_over_both_modes),
      CLAIM(different_keys_do_not_meet),
      CLAIM(the_first_of_every_queue_may_try_when_a_key_is_free),
      CLAIM(who_does_not_take_the_key_passes_it_on),
      CLAIM(who_lacks_another_key_passes_this_one_on),
      CLAIM(a_key_that_is_named_twice_is_held_once),
      CLAIM(who_is_gone_passes_the_key_on),
      CLAIM(a_key_that_is_passed_on_at_the_end_of_a_turn_is_not_lost),
      CLAIM(limits_may_differ_for_the_same_key),
      CLAIM(keys_are_held_across_a_restart),
      CLAIM(other_policies_let_go_of_who_is_parked),
      CLAIM(who_is_parked_may_run_out_of_time),
      CLAIM(priority_and_age_hold_among_those_who_come_back),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
