/* query: reads change nothing and see what is there. */
#include "core_test.h"

static tci_command query(fx *f, tci_filter filter) {
  return (tci_command){.kind = TCI_COMMAND_QUERY_NODES, .plan_id = f->plan_id, .query_nodes = filter};
}

/* "c d | s": the ids found. */
static void finds(fx *f, tci_filter filter, const char *text) {
  size_t records = f->journal.len;
  const tci_reply *reply = fx_command(f, query(f, filter));
  assert_int_equal(reply->status.code, TCI_OK);
  assert_int_equal(f->journal.len, records);
  char out[200] = "";
  size_t at = 0;
  for (size_t i = 0; i < reply->checks_len; i++)
    at += (size_t)snprintf(out + at, sizeof out - at, "%.*s ", TCI_STR_ARG(reply->checks[i]->node.id));
  at += (size_t)snprintf(out + at, sizeof out - at, "|");
  for (size_t i = 0; i < reply->stages_len; i++)
    at += (size_t)snprintf(out + at, sizeof out - at, " %.*s", TCI_STR_ARG(reply->stages[i]->node.id));
  assert_string_equal(out, text);
}

static void nodes_are_found_in_order_of_creation(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@z; b runner=go; @a state=FINAL");
  fx_write(f, "a runner=go state=FINAL; @m");
  tci_str ids[] = {TCI_STR("z"), TCI_STR("nobody"), TCI_STR("a")}, empty[] = {TCI_STR("nobody")};
  finds(f, (tci_filter){.include_checks = true, .include_stages = true}, "z a m | b a");
  finds(f, (tci_filter){.include_checks = true}, "z a m |");
  finds(f, (tci_filter){.include_stages = true}, "| b a");
  finds(f, (tci_filter){0}, "|"); /* neither flag */
  finds(f, (tci_filter){.include_checks = true, .include_stages = true, .check_ids = {ids, 3}}, "z a | b a");
  finds(f, (tci_filter){.include_checks = true, .check_ids = {empty, 1}}, "|"); /* unknown ids are left out */
  finds(f, (tci_filter){.include_checks = true, .check_states = tci_state_bit(TCI_CHECK_FINAL)}, "a |");
  finds(f,
        (tci_filter){.include_stages = true,
                     .stage_states = tci_state_bit(TCI_STAGE_FINAL) | tci_state_bit(TCI_STAGE_PLANNED)},
        "| a");
  tci_str in_order[] = {TCI_STR("z"), TCI_STR("a")}; /* a filter's own order does not matter and is left alone */
  finds(f, (tci_filter){.include_checks = true, .check_ids = {in_order, 2}}, "z a |");
  assert_true(tci_str_eq(in_order[0], TCI_STR("z")));
}

/* Reads pages of `size` to the end, with `between` (NULL: nothing) written after each: "c | s, d |, ...". */
static void pages(fx *f, tci_command cmd, int64_t size, const char *between, const char *text) {
  char out[300] = "";
  size_t at = 0;
  cmd.page = (tci_page){.size = size};
  do {
    const tci_reply *reply = fx_command(f, cmd);
    assert_int_equal(reply->status.code, TCI_OK);
    cmd.page.from = reply->next;
    at += (size_t)snprintf(out + at, sizeof out - at, "%s", at ? ", " : "");
    for (size_t i = 0; i < reply->checks_len; i++)
      at += (size_t)snprintf(out + at, sizeof out - at, "%.*s ", TCI_STR_ARG(reply->checks[i]->node.id));
    at += (size_t)snprintf(out + at, sizeof out - at, "|");
    for (size_t i = 0; i < reply->stages_len; i++)
      at += (size_t)snprintf(out + at, sizeof out - at, " %.*s", TCI_STR_ARG(reply->stages[i]->node.id));
    for (size_t i = 0; i < reply->attempts_len; i++)
      at += (size_t)snprintf(out + at, sizeof out - at, " %.*s:%u", TCI_STR_ARG(reply->attempts[i]->stage->node.id),
                             reply->attempts[i]->index);
    if (between) fx_write(f, between);
    between = NULL;
  } while (cmd.page.from);
  assert_string_equal(out, text);
}

static void pages_go_on_where_the_last_one_ended(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@z; @a state=FINAL; @m; b runner=go; c runner=go");
  tci_filter all = {.include_checks = true, .include_stages = true};
  pages(f, query(f, all), 2, NULL, "z a |, m | b, | c");
  pages(f, query(f, all), 5, NULL, "z a m | b c"); /* exactly to the end: nothing is left to ask for */
  pages(f, query(f, (tci_filter){.include_stages = true}), 1, NULL, "| b, | c");
  pages(f, query(f, (tci_filter){.include_checks = true, .check_states = tci_state_bit(TCI_CHECK_FINAL)}), 1, NULL,
        "a |, |"); /* a page may be empty */
  pages(f, query(f, (tci_filter){0}), 1, NULL, "|");
  tci_str ids[] = {TCI_STR("m"), TCI_STR("z"), TCI_STR("m"), TCI_STR("nobody")};
  pages(f, query(f, (tci_filter){.include_checks = true, .check_ids = {ids, 4}}), 1, NULL, "z |, m |");
  /* Those of one kind by id, of the other all. */
  pages(f, query(f, (tci_filter){.include_checks = true, .include_stages = true, .check_ids = {ids, 4}}), 2, NULL,
        "z m |, | b c");
  /* The plan grows, nodes change: nothing comes twice, nothing is left out. */
  pages(f, query(f, all), 3, "@z state=FINAL; @new", "z a m |, new | b c");
}

static void executions_come_in_pages_too(void **state) {
  fx *f = *state;
  fx_register(f, "r", "go", "sync", 0, 0);
  fx_create(f);
  fx_write(f, "@c; s runner=go attempts=2 backoff=1; t runner=go");
  fx_rpc_fails(f, "s", TCI_UNKNOWN, "no");
  fx_advance(f, 1000);
  tci_command list = {.kind = TCI_COMMAND_LIST_EXECUTIONS, .plan_id = f->plan_id};
  pages(f, list, 2, NULL, "| s:1 s:2, | t:1");
  pages(f, list, 1, NULL, "| s:1, | s:2, | t:1, |"); /* what comes behind was not looked at */
  list.list_executions.stage_id = TCI_STR("s");
  pages(f, list, 1, NULL, "| s:1, | s:2, |");
}

static void what_is_not_there_is_refused(void **state) {
  fx *f = *state;
  fx_create(f);
  tci_command cmd = query(f, (tci_filter){0});
  cmd.plan_id = (tci_str){0};
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "work_plan_id is empty", cmd);
  cmd.plan_id = TCI_STR("nobody");
  fx_refuses_command(f, TCI_NOT_FOUND, "no work plan 'nobody'", cmd);
  cmd.kind = TCI_COMMAND_GET_PLAN;
  fx_refuses_command(f, TCI_NOT_FOUND, "id: there is no work plan", cmd);
  cmd = (tci_command){.kind = TCI_COMMAND_LIST_EXECUTIONS, .plan_id = TCI_STR("nobody")};
  fx_refuses_command(f, TCI_NOT_FOUND, "nobody", cmd);
}

static void a_plan_is_found(void **state) {
  fx *f = *state;
  fx_create(f);
  const tci_reply *reply = fx_command(f, (tci_command){.kind = TCI_COMMAND_GET_PLAN, .plan_id = f->plan_id});
  assert_true(tci_str_eq(reply->plan->id, f->plan_id));
  reply = fx_command(f, (tci_command){.kind = TCI_COMMAND_GET_SERVER_INFO});
  assert_int_equal(reply->kind, TCI_REPLY_SERVER_INFO);
}

static tci_command execution(tci_str plan_id, const char *stage, int64_t attempt, tci_str id) {
  tci_command cmd = {.kind = TCI_COMMAND_GET_EXECUTION, .plan_id = plan_id};
  cmd.get_execution.stage_id = tci_str_from(stage);
  cmd.get_execution.attempt = attempt;
  cmd.get_execution.execution_id = id;
  return cmd;
}

static void executions_are_found_by_id_or_by_place(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go attempts=2; pulled");
  tci_str first = fx_execution(f, "s");
  fx_answers(f, "s", "FINAL failure=x");
  assert_int_equal(fx_command(f, execution(f->plan_id, "", 0, first))->attempts[0]->index, 1);
  assert_int_equal(fx_command(f, execution(f->plan_id, "s", 0, (tci_str){0}))->attempts[0]->index, 2);
  assert_int_equal(fx_command(f, execution(f->plan_id, "s", 1, (tci_str){0}))->attempts[0]->index, 1);
  fx_refuses_command(f, TCI_NOT_FOUND, "has no execution 3", execution(f->plan_id, "s", 3, (tci_str){0}));
  fx_refuses_command(f, TCI_NOT_FOUND, "has no execution", execution(f->plan_id, "s", -1, (tci_str){0}));
  fx_refuses_command(f, TCI_NOT_FOUND, "stage 'pulled'", execution(f->plan_id, "pulled", 0, (tci_str){0}));
  fx_refuses_command(f, TCI_NOT_FOUND, "stage 'typo'", execution(f->plan_id, "typo", 0, (tci_str){0}));
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "stage_id is empty", execution(f->plan_id, "", 0, (tci_str){0}));
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "execution_id is empty", execution((tci_str){0}, "", 0, (tci_str){0}));
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "work_plan_id is empty", execution((tci_str){0}, "s", 0, (tci_str){0}));
  fx_refuses_command(f, TCI_NOT_FOUND, "names no execution", execution(f->plan_id, "", 0, TCI_STR("x")));
}

static void executions_are_listed_by_stage_and_state(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go attempts=2; t runner=go; pulled");
  fx_answers(f, "s", "FINAL failure=x");
  tci_command cmd = {.kind = TCI_COMMAND_LIST_EXECUTIONS, .plan_id = f->plan_id};
  assert_int_equal(fx_command(f, cmd)->attempts_len, 3);
  cmd.list_executions.stage_id = TCI_STR("s");
  assert_int_equal(fx_command(f, cmd)->attempts_len, 2);
  cmd.list_executions.states = tci_state_bit(TCI_EXECUTION_FAILED);
  const tci_reply *reply = fx_command(f, cmd);
  assert_int_equal(reply->attempts_len, 1);
  assert_int_equal(reply->attempts[0]->index, 1);
  cmd.list_executions.stage_id = TCI_STR("typo");
  assert_int_equal(fx_command(f, cmd)->attempts_len, 0);
}

/* ---- what stays in memory ---- */

static void idle_plans_leave_memory_the_least_recently_touched_first(void **state) {
  fx *f = *state;
  f->limits.plans_in_memory_max = 2;
  fx_renew(f);
  fx_register(f, "r", "go", "sync", 0, 0);
  tci_str plans[5];
  for (int i = 0; i < 5; i++) {
    plans[i] = fx_create(f);
    fx_write(f, i == 0 ? "s runner=go" : "@c state=FINAL"); /* the first one is at work */
  }
  f->plan_id = plans[1];
  fx_watch(f, 1, "checks"); /* and somebody watches the second */
  fx_command(f, (tci_command){.kind = TCI_COMMAND_GET_PLAN, .plan_id = plans[2]});
  f->compare_every = 0;                  /* the shadow forgets nothing */
  assert_false(tci_core_evict(f->core)); /* all at once */
  const bool there[] = {true, true, true, false, true};
  for (int i = 0; i < 5; i++) assert_int_equal(tci_core_has_plan(f->core, plans[i]), there[i]);
  fx_step(f, &(tci_event){.kind = TCI_EVENT_UNWATCH, .token = 1});
  tci_core_evict(f->core);
  assert_false(tci_core_has_plan(f->core, plans[4])); /* the third was asked for since, the second just let go */
  tci_core_free(f->core);                             /* for the teardown: all of it again */
  f->core = fx_replay(f);
  fx_step(f, &(tci_event){.kind = TCI_EVENT_RELOADED});
  fx_write(f, "@late");
}

static void load_afresh(fx *f) {
  tci_core_free(f->core);
  f->core = fx_replay(f);
  fx_step(f, &(tci_event){.kind = TCI_EVENT_RELOADED});
}

/* What a policy sees of a runner, apart from what it is. */
static const char *seen(fx *f) {
  const tci_runner *r = fx_runner(f, "r");
  return tci_fmt(&f->arena, "load %lld used %llu at %lld recent %x of %u keys %zu", (long long)r->load,
                 (unsigned long long)r->last_used, (long long)r->last_used_us, r->recent, r->recent_len,
                 f->core->keys.len);
}

/* As the engine does when somebody names a plan that has left memory. */
static void read_again(fx *f, tci_str plan_id) {
  uint64_t key = 0;
  for (size_t i = 0; i < f->journal.len; i++) {
    const fx_stored *s = &f->journal.items[i];
    if (s->plan_id_len && tci_str_eq((tci_str){s->plan_id, s->plan_id_len}, plan_id)) key = s->plan_key;
    if (!key || s->plan_key != key) continue;
    tci_record record = {s->plan_key, s->sequence, {s->bytes, s->bytes_len}, {s->plan_id, s->plan_id_len}, s->settled};
    assert_int_equal(tci_core_load(f->core, &record).code, TCI_OK);
  }
  tci_core_loaded(f->core, key);
  tci_command cmd = {.kind = TCI_COMMAND_GET_PLAN, .plan_id = plan_id};
  assert_int_equal(fx_command(f, cmd)->status.code, TCI_OK);
}

static void reading_a_plan_that_left_memory_is_no_news_of_its_runner(void **state) {
  fx *f = *state;
  f->limits.plans_in_memory_max = 1;
  fx_renew(f);
  fx_register(f, "r", "go", "both", 0, 0);
  tci_str old = fx_create(f);
  fx_write(f, "a runner=go attempts=1; b runner=go mode=async attempts=1; c runner=go");
  fx_answers(f, "a", "FINAL failure=no");
  fx_accepts(f, "b", true);
  fx_completes(f, "b", "FINAL failure=no");
  fx_answers(f, "c", "FINAL");
  fx_advance(f, 1000);
  fx_create(f);
  fx_write(f, "d runner=go");
  fx_answers(f, "d", "FINAL");
  f->compare_every = 0;                             /* the shadow forgets nothing */
  assert_int_equal(fx_runner(f, "r")->recent, 0xc); /* of four the first two */
  const char *before = seen(f);
  for (int i = 0; i < 3; i++) {
    fx_create(f);
    tci_core_evict(f->core);
    assert_false(tci_core_has_plan(f->core, old));
    read_again(f, old);
    assert_string_equal(seen(f), before);
  }
  load_afresh(f);
  assert_int_equal(fx_runner(f, "r")->recent_len, 0); /* it begins anew with the model */
  assert_int_equal(fx_runner(f, "r")->last_used, 0);
}

static const char *fat(fx *f, const char *format) {
  char text[3001] = {0};
  memset(text, 'x', sizeof text - 1);
  return tci_fmt(&f->arena, format, text);
}

static void idle_plans_leave_memory_by_what_they_take(void **state) {
  fx *f = *state;
  tci_str plans[8];
  for (int i = 0; i < 8; i++) {
    plans[i] = fx_create(f);
    fx_write(f, fat(f, "@c opt=k:%s"));
  }
  f->compare_every = 0;
  assert_true(f->core->idle_bytes > 8 * 3000);
  f->limits.plans_in_memory_bytes_max = f->core->limits.plans_in_memory_bytes_max = (int64_t)f->core->idle_bytes / 2;
  assert_false(tci_core_evict(f->core));
  for (int i = 0; i < 8; i++) assert_int_equal(tci_core_has_plan(f->core, plans[i]), i >= 4);
  load_afresh(f);
  f->limits.plans_in_memory_bytes_max = f->core->limits.plans_in_memory_bytes_max = 100;
  assert_false(tci_core_evict(f->core));
  assert_int_equal(f->core->plan_list.len, 1); /* whoever reads a large plan page by page does not load it for each */
  load_afresh(f);
}

static void a_large_plan_leaves_memory_in_pieces(void **state) {
  fx *f = *state;
  enum { NODES = 12000 };
  f->compare_every = 0;
  f->limits.plans_in_memory_max = 1;
  f->limits.write_nodes_max = NODES;
  fx_renew(f);
  tci_str large = fx_create(f);
  tci_buf text = {0};
  for (int i = 0; i < NODES; i++) tci_buf_add(&text, tci_str_from(tci_fmt(&f->arena, "@c%d;", i)));
  tci_command cmd = fx_parse_write(&f->arena, f->plan_id, tci_str_z(&f->arena, tci_buf_str(&text)));
  cmd.write_nodes.omit_nodes = true;
  assert_int_equal(fx_command(f, cmd)->status.code, TCI_OK);
  tci_buf_deinit(&text);
  fx_create(f);
  assert_true(tci_core_evict(f->core));
  assert_false(tci_core_has_plan(f->core, large)); /* nobody sees the half of it */
  assert_false(tci_core_evict(f->core));
  assert_int_equal(f->core->leaving.len, 0);
  load_afresh(f);
}

static void a_plan_knows_what_it_takes(void **state) {
  fx *f = *state;
  fx_register(f, "r", "go", "both", 0, 0);
  fx_create(f);
  size_t empty = fx_plan(f)->bytes;
  fx_write(f, fat(f, "@c opt=k:%s; s runner=go mode=async checks=c"));
  size_t one = fx_plan(f)->bytes;
  assert_in_range(one - empty, 3000, 6000);
  for (int i = 0; i < 50; i++) fx_write(f, fat(f, tci_fmt(&f->arena, "@c opt=k:%d%%s", i % 10)));
  assert_in_range(fx_plan(f)->bytes - empty, 3000, 6000); /* what is replaced is gone */
  f->core->limits.progress_journal_bytes_per_s = 1 << 30;
  for (int i = 0; i < 300; i++) fx_advance(f, 1), fx_reports(f, "s", fat(f, "%s"));
  assert_in_range(fx_plan(f)->bytes - empty, 60000, 80000); /* and so is progress that is no longer kept */
  size_t bytes = fx_plan(f)->bytes;
  fx_restart(f, TCI_EVENT_RELOADED);
  assert_int_equal(fx_plan(f)->bytes, bytes);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(nodes_are_found_in_order_of_creation),
      CLAIM(pages_go_on_where_the_last_one_ended),
      CLAIM(executions_come_in_pages_too),
      CLAIM(what_is_not_there_is_refused),
      CLAIM(a_plan_is_found),
      CLAIM(executions_are_found_by_id_or_by_place),
      CLAIM(executions_are_listed_by_stage_and_state),
      CLAIM(idle_plans_leave_memory_the_least_recently_touched_first),
      CLAIM(reading_a_plan_that_left_memory_is_no_news_of_its_runner),
      CLAIM(idle_plans_leave_memory_by_what_they_take),
      CLAIM(a_large_plan_leaves_memory_in_pieces),
      CLAIM(a_plan_knows_what_it_takes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
