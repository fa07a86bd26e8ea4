/* invariant: every text of tci_core_check can be provoked: a whole model is broken by hand, found out, and mended again. */
#include "core_test.h"

/* Breaks `lvalue`, expects the text, puts it back. */
#define BREAKS(f, lvalue, value, part)                               \
  do {                                                               \
    __typeof__(lvalue) kept_ = (lvalue);                             \
    (lvalue) = (value);                                              \
    const char *fault_ = tci_core_check((f)->core, &(f)->arena);     \
    (lvalue) = kept_;                                                \
    if (!fault_) fail_msg("line %d: nothing was noticed", __LINE__); \
    fx_contains(fault_, (part));                                     \
    assert_null(tci_core_check((f)->core, &(f)->arena));             \
  } while (0)

static void groups(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a; @b; @done state=FINAL; p runner=go after=@a,@done; q runner=go after=@done");
  tci_group *p = &fx_stage(f, "p")->node.group;
  BREAKS(f, p->edges[0].owner, &fx_stage(f, "q")->node, "22: an edge of 'p' has another owner");
  BREAKS(f, p->edges[0].counted, true, "19: an edge of 'p' is miscounted");
  BREAKS(f, p->edges[1].counted, false, "19: an edge of 'p' is miscounted");
  BREAKS(f, p->satisfied, 2, "19: the counters of 'p' are off");
  BREAKS(f, p->unsatisfied, 1, "19: the counters of 'p' are off");
  BREAKS(f, p->state, TCI_GROUP_SATISFIED, "19: the group of 'p' is resolved wrongly");
  BREAKS(f, fx_stage(f, "q")->node.group.state, TCI_GROUP_UNSATISFIED, "19: the group of 'q' is resolved wrongly");
  BREAKS(f, p->edges[1].condition, TCI_ON_FAILURE, "19: the counters of 'p' are off");
}

static void nodes(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@gate; @done state=FINAL; @w state=PLANNED; p runner=go after=@gate; s runner=go; x");
  BREAKS(f, fx_check(f, "gate")->node.outcome, TCI_OUTCOME_FAILED, "1: 'gate' has an outcome too early or none");
  BREAKS(f, fx_check(f, "done")->node.outcome, TCI_OUTCOME_UNKNOWN, "1: 'done' has an outcome too early or none");
  BREAKS(f, fx_check(f, "w")->state, TCI_CHECK_PLANNED, "9: check 'w' lags");
  BREAKS(f, fx_stage(f, "s")->state, TCI_STAGE_PLANNED, "9: stage 's' lags");
  tci_stage *p = fx_stage(f, "p");
  __typeof__(p->attempts) kept = p->attempts;
  p->attempts = fx_stage(f, "s")->attempts;
  fx_contains(tci_core_check(f->core, &f->arena), "9: stage 'p' ran before its time");
  p->attempts = kept;
}

static void attempts(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "live runner=go; waits runner=none; again runner=go attempts=2 backoff=99999; over runner=go");
  fx_answers(f, "again", "FINAL failure=x");
  fx_answers(f, "over", "FINAL");
  tci_attempt *live = fx_attempt(f, "live"), *waits = fx_attempt(f, "waits"), *over = fx_attempt(f, "over");
  BREAKS(f, live->index, 2, "3: attempts of 'live' have gaps");
  BREAKS(f, fx_stage(f, "again")->attempts.items[0]->state, TCI_ATTEMPT_RUNNING, "4: 'again' has an old open attempt");
  BREAKS(f, live->execution, TCI_EXECUTION_COMPLETE, "5: attempt and execution of 'live' disagree");
  BREAKS(f, over->state, TCI_ATTEMPT_RUNNING, "5: attempt and execution of 'over' disagree");
  BREAKS(f, waits->queued.next, NULL, "11: 'waits' is neither queued nor backing off");
  BREAKS(f, fx_attempt(f, "again")->timer.position, 0, "11: 'again' is neither queued nor backing off");
  BREAKS(f, live->timer.position, 0, "12: 'live' has no deadline");
  BREAKS(f, over->live.next, &over->live, "6: 'over' holds a slot");
  BREAKS(f, fx_stage(f, "live")->state, TCI_STAGE_AWAITING_GROUP,
         "5: stage 'live' is AWAITING_GROUP with 1 open attempts");
  BREAKS(f, fx_stage(f, "live")->attempts.len, 0, "5: stage 'live' is ATTEMPTING with 0 open attempts");
}

static void checks(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@c; @d; s runner=go checks=c; t runner=go checks=c");
  tci_check *c = fx_check(f, "c");
  BREAKS(f, fx_stage(f, "s")->assignments[0].check, fx_check(f, "d"),
         "22: check 'c' knows a stage that is not assigned");
  BREAKS(f, fx_stage(f, "s")->assignments[0].done, true, "19: assignment of 'c' is miscounted");
  BREAKS(f, c->pending, 1, "19: check 'c' counts pending results wrongly");
  /* Both results are final, and so is everything that counts them; only the check is not. */
  for (size_t i = 0; i < 2; i++) {
    c->assigned.items[i]->done = true;
    c->assigned.items[i]->result = i + 1;
  }
  tci_result results[] = {{.id = 1, .owner_type = TCI_STR("stage"), .owner_id = TCI_STR("s"), .finalized_us = 1},
                          {.id = 2, .owner_type = TCI_STR("stage"), .owner_id = TCI_STR("t"), .finalized_us = 1}};
  c->results.items = results;
  c->results.len = 2;
  size_t pending = c->pending;
  c->pending = 0;
  fx_contains(tci_core_check(f->core, &f->arena), "12: check 'c' should be FINAL");
  c->pending = pending;
  c->results.items = NULL;
  c->results.len = 0;
  for (size_t i = 0; i < 2; i++) {
    c->assigned.items[i]->done = false;
    c->assigned.items[i]->result = 0;
  }
}

static void plans(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@c; s runner=go");
  BREAKS(f, fx_plan(f)->open_nodes, 1, "counts wrongly");
  BREAKS(f, fx_plan(f)->live_attempts, 0, "counts wrongly");
  BREAKS(f, fx_plan(f)->state, TCI_PLAN_SETTLED, "settles wrongly");
  fx_create(f);
  BREAKS(f, fx_plan(f)->state, TCI_PLAN_SETTLED, "settles wrongly"); /* it has no nodes */
  fx_write(f, "@c state=FINAL");
  BREAKS(f, fx_plan(f)->state, TCI_PLAN_ACTIVE, "settles wrongly");
}

static void runners(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_register(f, "q", "go", "both", 0, 0);
  fx_write(f, "s runner=go");
  tci_runner *r = fx_runner(f, "r");
  BREAKS(f, fx_attempt(f, "s")->runner, fx_runner(f, "q"), "6: runner 'r' holds work of another");
  BREAKS(f, r->load, 0, "6: the load of runner 'r' is miscounted");
  BREAKS(f, r->timer.position, 0, "20: runner 'r' never expires");
  BREAKS(f, r->registration_id, TCI_STR("elsewhere"), "6: runner 'r' is lost");
}

/* ---- who waits ---- */

/* "held" is told to wait for a time, "idle" for nothing in particular; those on "k..." hold the key "k" alone. */
static void by_name(void *self, tci_hook hook, const tci_question *q, tci_decision *out) {
  (void)self;
  char first = q->stage->node.id.ptr[0];
  if (hook == TCI_HOOK_TIMEOUT) {
    out->queue_ms = first == 't' ? 60000 : 0;
  } else if (hook == TCI_HOOK_SELECT) {
    out->runner = q->candidates[0];
    out->wait = first == 'h' || first == 'i' || first == 't';
    out->wait_us = first == 'h' ? 5000000 : 0;
  } else if (first == 'k') {
    out->keys = tci_arena_array(q->arena, tci_admission, 1);
    out->keys_len = 1;
    out->keys[0] = (tci_admission){TCI_STR("k"), 1};
  }
}

static tci_pool *with_queues(fx *f) {
  fx_policy(f, 1u << TCI_HOOK_SELECT | 1u << TCI_HOOK_ADMIT | 1u << TCI_HOOK_TIMEOUT, by_name);
  with_runner(f);
  fx_write(f,
           "held runner=go; idle runner=go; idle2 runner=go; idle3 runner=go priority=5; timed runner=go; "
           "k1 runner=go; k2 runner=go; k3 runner=go; idle4 runner=go mode=async; none runner=py");
  return tci_attempt_pool(f->core, fx_attempt(f, "idle"));
}

static void those_who_wait(void **state) {
  fx *f = *state;
  with_queues(f);
  tci_attempt *held = fx_attempt(f, "held"), *idle = fx_attempt(f, "idle"), *k2 = fx_attempt(f, "k2");
  tci_attempt *timed = fx_attempt(f, "timed");
  BREAKS(f, idle->mode, TCI_MODE_ASYNC, "11: 'idle' is in a queue that is not its own");
  BREAKS(f, fx_stage(f, "idle")->runner_type, TCI_STR("py"), "11: 'idle' is in a queue that is not its own");
  BREAKS(f, k2->parked, NULL, "11: 'k2' is parked elsewhere");
  BREAKS(f, idle->parked, k2->parked, "11: 'idle' is parked elsewhere");
  BREAKS(f, held->hold_until_us, 0, "11: 'held' is told to wait until 0");
  BREAKS(f, idle->hold_until_us, 7, "11: 'idle' is told to wait until 7");
  BREAKS(f, k2->hold_until_us, 7, "11: 'k2' is told to wait until 7");
  BREAKS(f, held->timer.position, 0, "12: 'held' is queued for ever");
  BREAKS(f, timed->timer.position, 0, "12: 'timed' is queued for ever");
  BREAKS(f, fx_attempt(f, "idle2")->order, 1, "11: 'idle2' has jumped the queue");
  BREAKS(f, fx_attempt(f, "k3")->order, k2->order, "11: 'k3' has jumped the queue");
  BREAKS(f, idle->priority, 4, "11: 'idle' has another priority");
}

static void queues(void **state) {
  fx *f = *state;
  tci_pool *pool = with_queues(f);
  tci_ready *ready = &pool->ready[TCI_MODE_SYNC];
  BREAKS(f, ready->len, 3, "11: the queue of 'go' is miscounted");
  BREAKS(f, ready->buckets.items[1]->priority, 9, "11: the priorities of 'go' are out of order");
  tci_link nowhere;
  tci_pool_wake(f->core, pool); /* its look is not over */
  BREAKS(f, ready->cursor, &nowhere, "11: the look at 'go' goes on nowhere");
  BREAKS(f, f->core->awake.len, 0, "11: 'go' is listed 0 times to be looked at");
  fx_tick(f);
  BREAKS(f, ready->cursor, &fx_attempt(f, "idle")->queued, "11: the look at 'go' is forgotten");
  BREAKS(f, ready->awake, true, "11: 'go' is listed 0 times to be looked at");
  BREAKS(f, pool->listed, true, "11: 'go' is listed 0 times to be looked at");
  BREAKS(f, f->core->pool_list.len, 1, "are queued"); /* a pool that is lost */
  tci_pool *empty = tci_pool_get(f->core, TCI_STR("rust"));
  fx_contains(tci_core_check(f->core, &f->arena), "25: the pool of 'rust' is kept for nobody");
  tci_pool_trim(f->core, empty);
  assert_null(tci_core_check(f->core, &f->arena));
  /* One that nobody has looked at. */
  tci_link *idle = &fx_attempt(f, "idle")->queued;
  tci_link_remove(idle);
  tci_list_push(&ready->arrived, idle);
  fx_contains(tci_core_check(f->core, &f->arena), "11: nobody looks at who arrived at 'go'");
  tci_link_remove(idle);
  tci_list_push(ready->buckets.items[1]->list.next, idle);
  assert_null(tci_core_check(f->core, &f->arena));
}

static void keys(void **state) {
  fx *f = *state;
  tci_pool *pool = with_queues(f);
  tci_attempt *k1 = fx_attempt(f, "k1"), *idle = fx_attempt(f, "idle");
  tci_key_queue *queue = fx_attempt(f, "k2")->parked;
  tci_key *key = queue->key;
  BREAKS(f, key->live, 2, "6: admission key 'k' is miscounted");
  BREAKS(f, key->live, 0, "6: admission key 'k' is miscounted");
  BREAKS(f, k1->keys, ((tci_str){NULL, 0}), "6: 'k1' miscounts its admission keys");
  BREAKS(f, k1->counts_keys, false, "6: 'k1' miscounts its admission keys");
  BREAKS(f, idle->counts_keys, true, "6: 'idle' miscounts its admission keys");
  BREAKS(f, idle->chance, key, "6: admission key 'k' is miscounted");
  BREAKS(f, f->core->keys.len, 2, "6: 2 admission keys are known, 1 are in use");
  BREAKS(f, queue->position, 1, "11: those who wait for key 'k' are lost");
  BREAKS(f, queue->pool, NULL, "11: those who wait for key 'k' are lost");
  tci_vec_push(&key->queues, queue); /* twice */
  fx_contains(tci_core_check(f->core, &f->arena), "11: those who wait for key 'k' are lost");
  key->queues.len--;
  BREAKS(f, key->queues.len, 0, "11: those who wait for key 'k' are lost");
  BREAKS(f, fx_attempt(f, "k3")->key_limit, 2, "11: key 'k' has room and nobody tries");
  idle->chance = key; /* now somebody does */
  key->chances = 1;
  BREAKS(f, key->chances, 0, "6: admission key 'k' is miscounted");
  fx_attempt(f, "k3")->key_limit = 2;
  assert_null(tci_core_check(f->core, &f->arena));
  fx_attempt(f, "k3")->key_limit = 1;
  idle->chance = NULL;
  key->chances = 0;
  BREAKS(f, pool->parked.len, 0, "11: the queue of 'go' is miscounted");
}

int main(void) {
  const struct CMUnitTest tests[] = {CLAIM(groups),         CLAIM(nodes),  CLAIM(attempts),
                                     CLAIM(checks),         CLAIM(plans),  CLAIM(runners),
                                     CLAIM(those_who_wait), CLAIM(queues), CLAIM(keys)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
