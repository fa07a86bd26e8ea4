/* write: every refusal, every legal write; a write happens whole or not at all (fx_refuses compares the whole model). */
#include "core_test.h"
#include "rpc/codec.h"

/* ---- shape ---- */

static void missing_ids_and_plans_are_refused(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_refuses(f, TCI_INVALID_ARGUMENT, "checks[1] '': id is empty", "@c; @");
  tci_command cmd = fx_parse_write(&f->arena, f->plan_id, "s");
  cmd.write_nodes.stages[0].id = (tci_str){0};
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "stages[0] '': id is empty", cmd);
  fx_refuses(f, TCI_INVALID_ARGUMENT, "checks[1] 'c': id: written twice", "@c; @c");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "stages[1] 's': id: written twice", "s; s");
  cmd = fx_parse_write(&f->arena, (tci_str){0}, "@c");
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "work_plan_id is empty", cmd);
  cmd.plan_id = TCI_STR("nobody");
  fx_refuses_command(f, TCI_NOT_FOUND, "no work plan 'nobody'", cmd);
  cmd = (tci_command){.kind = TCI_COMMAND_GET_PLAN};
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "id is empty", cmd);
}

static void a_check_and_a_stage_may_share_an_id(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@x; x runner=go checks=x");
  fx_is(f, "@x", "PLANNING");
  fx_is(f, "x", "ATTEMPTING 1:PENDING/PENDING");
}

static void unknown_targets_are_refused_by_name(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_refuses(f, TCI_INVALID_ARGUMENT, "dependencies.dependencies[1].target_id: check 'typo'",
             "@a; s runner=go after=@a,@typo");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "stage 'a'", "@a; s runner=go after=a"); /* a check of that name is no stage */
  fx_refuses(f, TCI_INVALID_ARGUMENT, "assignments[0].target_check_id: check 'typo'", "s runner=go checks=typo");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "assigned twice", "@c; s runner=go checks=c,c");
  tci_command cmd = fx_parse_write(&f->arena, f->plan_id, "@a; s runner=go after=@a checks=a");
  cmd.write_nodes.stages[0].dependencies.items[0].target_kind = TCI_NODE_UNKNOWN;
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "target_type is missing", cmd);
  cmd = fx_parse_write(&f->arena, f->plan_id, "@a; s runner=go after=@a checks=a");
  cmd.write_nodes.stages[0].dependencies.items[0].target_id = (tci_str){0};
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "target_id is empty", cmd);
  cmd = fx_parse_write(&f->arena, f->plan_id, "@a; s runner=go after=@a checks=a");
  cmd.write_nodes.stages[0].assignments[0].check_id = (tci_str){0};
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "target_check_id is empty", cmd);
}

static void one_fault_undoes_the_whole_write(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@old opt=a:1; t runner=go after=@old");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "typo",
             "@new; @old opt=a:2 state=FINAL; s runner=go after=@new; t after=@new opt=k:v; u runner=go after=typo");
  fx_is(f, "@old", "PLANNING");
}

/* ---- limits ---- */

static void limits_are_kept(void **state) {
  fx *f = *state;
  f->limits.nodes_per_plan_max = 3;
  f->limits.write_nodes_max = 5;
  f->limits.write_edges_max = 4;
  f->limits.dependencies_per_node_max = 2;
  f->limits.assignments_per_stage_max = 1;
  f->limits.node_bytes_max = 40;
  f->limits.results_per_check_max = 1;
  f->limits.attempts_per_stage_max = 5;
  f->limits.duration_ms_max = 1000;
  f->limits.priority_max = 7;
  fx_renew(f);
  fx_create(f);
  fx_refuses(f, TCI_RESOURCE_EXHAUSTED, "6 nodes, over the limit write_nodes_max (5)", "@a; @b; @c; @d; e; f");
  fx_refuses(f, TCI_RESOURCE_EXHAUSTED, "5 dependencies and assignments, over the limit write_edges_max (4)",
             "@a; @b; s runner=go checks=a,b after=@a,@b; t runner=go after=s");
  fx_refuses(f, TCI_RESOURCE_EXHAUSTED, "more than 3 nodes", "@a; @b; c runner=go; d runner=go");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "dependencies: more than 2", "@a; s runner=go after=@a,@a,@a");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "assignments: more than 1", "@a; @b; s runner=go checks=a,b");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "retry.max_attempts: 6", "s attempts=6");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "retry.backoff_ms: 1001", "s backoff=1001");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "retry.backoff_ms_max: 1001", "s backoff_max=1001");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "timeouts.execution_ms: 1001", "s timeout=1001");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "timeouts.stale_ms: 1001", "s stale=1001");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "priority: 8", "s priority=8");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "priority", "s priority=-8");
  fx_write(f,
           "@a opt=aaaaaaaa:1; @b; s runner=go checks=a attempts=5 timeout=1000 priority=-7"); /* each exactly at it */
  fx_refuses(f, TCI_INVALID_ARGUMENT, "options: larger than 40 bytes once merged", "@a opt=bbbbbbbb:1 opt=cccccccc:1");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "result.data: larger", "@a data=k:0123456789012345678901234567890123456789");
  fx_write(f, "@a result=me:1");
  fx_refuses(f, TCI_RESOURCE_EXHAUSTED, "results_per_check_max", "@a result=me:2");
  fx_write(f, "@a result=me:1 data=k:v"); /* the one that is there */
  fx_refuses(f, TCI_RESOURCE_EXHAUSTED, "more than 3 nodes", "@d");
}

static void a_reply_over_the_limit_is_refused_before_the_write(void **state) {
  fx *f = *state;
  f->limits.page_bytes_max = 2800;
  fx_renew(f);
  fx_create(f);
  char kind[2700];
  memset(kind, 'k', sizeof kind);
  tci_command cmd = fx_parse_write(&f->arena, f->plan_id, "@c");
  cmd.write_nodes.checks[0].kind = (tci_str){kind, sizeof kind};
  fx_refuses_command(f, TCI_RESOURCE_EXHAUSTED, "page_bytes_max", cmd);
  cmd.write_nodes.omit_nodes = true;
  const tci_reply *reply = fx_command(f, cmd);
  assert_int_equal(reply->status.code, TCI_OK);
  assert_int_equal(reply->checks_len, 0);
  fx_refuses(f, TCI_RESOURCE_EXHAUSTED, "set omit_nodes", "@c opt=k:v"); /* what is there counts, too */
}

/* What the write is said to come to, and what its reply is. */
static void measured(fx *f, const char *text) {
  tci_command cmd = fx_parse_write(&f->arena, f->plan_id, text);
  f->core->limits.page_bytes_max = 1;
  const tci_reply *reply = fx_command(f, cmd);
  if (reply->status.code != TCI_RESOURCE_EXHAUSTED) fail_msg("%s", reply->status.message);
  size_t said = 0;
  assert_int_equal(sscanf(reply->status.message, "the reply would be about %zu", &said), 1);
  f->core->limits.page_bytes_max = (int64_t)said;
  reply = fx_command(f, cmd);
  assert_int_equal(reply->status.code, TCI_OK);
  tci_buf bytes = {0};
  tci_codec_reply(reply, NULL, &bytes);
  if (bytes.len > said || said > 3 * bytes.len + 100) fail_msg("%zu bytes, said %zu: %.60s", bytes.len, said, text);
  tci_buf_deinit(&bytes);
}

static void what_a_reply_takes_is_measured(void **state) {
  fx *f = *state;
  fx_register(f, "a-runner", "go", "sync", 1, 300000);
  fx_create(f);
  measured(f, "@c kind=lint opt=a:1");
  measured(f, "@d; s runner=none after=@c checks=d");
  measured(f, "s"); /* edges that are there already */
  measured(f, "run runner=go checks=d; queued runner=go priority=-7 attempts=9 timeout=1000");
  fx_write(f, "@c result=me:1 data=k:v failure=no; p");
  measured(f, "@c result=you:2 data=k:w");
  fx_write(f, "p uid=me progress=half");
  measured(f, "p uid=me progress=nearly");
  measured(f, "@e; w runner=none checks=e; @f state=FINAL data=k:v");
  fx_write(f, "@g; x runner=none after=w checks=g");
  measured(f, "@g; x state=FINAL"); /* g gets a result that says why there is none */
  char *many = tci_fmt(&f->arena, "n0 runner=none");
  for (int i = 1; i < 60; i++) many = tci_fmt(&f->arena, "%s; n%d runner=none after=n%d", many, i, i - 1);
  measured(f, many);
}

/* ---- replies and versions ---- */

static void the_reply_has_the_nodes_in_request_order(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@b; t runner=go");
  const tci_reply *reply = fx_write(f, "@c; s runner=go; @b; t");
  assert_int_equal(reply->checks_len, 2);
  assert_int_equal(reply->stages_len, 2);
  assert_true(tci_str_eq(reply->checks[0]->node.id, TCI_STR("c")));
  assert_true(tci_str_eq(reply->checks[1]->node.id, TCI_STR("b")));
  assert_true(tci_str_eq(reply->stages[0]->node.id, TCI_STR("s")));
  assert_int_equal(reply->stages[0]->state, TCI_STAGE_ATTEMPTING); /* as it is after the step */
}

static void versions_rise_by_one_per_step_that_changes(void **state) {
  fx *f = *state;
  fx_create(f);
  assert_int_equal(fx_plan(f)->version, 1);
  fx_write(f, "@c state=PLANNED; @d"); /* c is created and moves to WAITING: one step */
  assert_int_equal(fx_check(f, "c")->node.version, 1);
  assert_int_equal(fx_plan(f)->version, 2);
  fx_write(f, "@c opt=a:1 kind=x");
  assert_int_equal(fx_check(f, "c")->node.version, 2);
  assert_int_equal(fx_check(f, "d")->node.version, 1);
  size_t records = f->journal.len;
  fx_write(f, "@c opt=a:1 kind=x"); /* nothing new */
  assert_int_equal(fx_check(f, "c")->node.version, 2);
  assert_int_equal(fx_plan(f)->version, 3);
  assert_int_equal(f->journal.len, records);
}

static void a_setting_said_again_is_no_change(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@gate; s runner=go after=@gate priority=5");
  fx_write(f, "s priority=5");
  fx_write(f, "s");
  assert_int_equal(fx_stage(f, "s")->node.version, 1);
  fx_write(f, "s priority=6");
  assert_int_equal(fx_stage(f, "s")->node.version, 2);
}

static void plans_and_attempts_say_when_they_were_made_and_last_changed(void **state) {
  fx *f = *state;
  fx_create(f);
  int64_t created = f->now.wall_us;
  assert_int_equal(fx_plan(f)->created_us, created);
  fx_advance(f, 1000);
  fx_write(f, "p");
  fx_advance(f, 1000);
  fx_write(f, "p uid=me");
  assert_int_equal(fx_plan(f)->created_us, created);
  assert_int_equal(fx_plan(f)->updated_us, created + 2000000);
  assert_int_equal(fx_attempt(f, "p")->created_us, created + 1000000);
  assert_int_equal(fx_attempt(f, "p")->updated_us, created + 2000000);
}

static void progress_has_the_time_its_client_gave_or_that_of_the_write(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "p");
  fx_write(f, "p uid=me progress=first");
  tci_command cmd = fx_parse_write(&f->arena, f->plan_id, "p progress=second");
  cmd.write_nodes.stages[0].attempt.progress_us = 1600000000000000;
  assert_int_equal(fx_command(f, cmd)->status.code, TCI_OK);
  const tci_attempt *a = fx_attempt(f, "p");
  assert_int_equal(a->progress.len, 2);
  assert_int_equal(a->progress.items[0].at_us, f->now.wall_us);
  assert_int_equal(a->progress.items[1].at_us, 1600000000000000);
}

static void expected_versions_make_a_write_optimistic(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@c; s");
  fx_refuses(f, TCI_ABORTED, "expected_version is 2, but the check is at version 1", "@c version=2 opt=a:1");
  fx_refuses(f, TCI_ABORTED, "expected_version is 7, but the stage is at version 1", "@c opt=a:1; s version=7");
  fx_refuses(f, TCI_ABORTED, "at version 0", "@new version=1");
  fx_write(f, "@c version=1 opt=a:1; s version=1 priority=3");
  fx_write(f, "@c version=2 opt=a:2");
  tci_command cmd = fx_parse_write(&f->arena, f->plan_id, "@c opt=a:3");
  cmd.write_nodes.expected_plan_version = fx_plan(f)->version + 1;
  fx_refuses_command(f, TCI_ABORTED, "expected_plan_version is 5", cmd);
  cmd.write_nodes.expected_plan_version--;
  assert_int_equal(fx_command(f, cmd)->status.code, TCI_OK);
}

/* ---- checks ---- */

static void checks_are_born_planning_planned_or_final(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@gate; @a; @b state=PLANNING; @c state=PLANNED after=@gate; @d state=FINAL");
  fx_is(f, "@a", "PLANNING");
  fx_is(f, "@b", "PLANNING");
  fx_is(f, "@c", "PLANNED");
  fx_is(f, "@d", "FINAL/SUCCEEDED/WRITTEN");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "cannot become WAITING", "@e state=WAITING");
}

static void checks_move_by_one_or_to_final_and_the_engine_makes_them_wait(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@gate; @c after=@gate; @w state=PLANNED");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "is PLANNING and cannot become WAITING", "@c state=WAITING");
  fx_write(f, "@c state=PLANNED");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "the engine does that", "@c state=WAITING");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "is PLANNED and cannot become PLANNING", "@c state=PLANNING");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "is WAITING and cannot become PLANNED", "@w state=PLANNED");
  fx_write(f, "@w state=WAITING"); /* it is */
  fx_write(f, "@w state=FINAL; @c state=FINAL");
  fx_is(f, "@c", "FINAL/SUCCEEDED/WRITTEN");
}

static void a_final_check_never_changes(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@gate; @c state=FINAL kind=lint opt=a:1 after=@gate result=me:1 data=k:v");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "options: check 'c' is FINAL", "@c opt=a:2");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "kind: check 'c' is FINAL", "@c kind=test");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "dependencies: check 'c' is FINAL", "@c after=");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "result: check 'c' is FINAL", "@c result=me:1 data=k:w");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "result: check 'c' is FINAL", "@c result=me:2");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "is FINAL and cannot become PLANNED: FINAL is immutable", "@c state=PLANNED");
  size_t records = f->journal.len;
  fx_write(f, "@c state=FINAL kind=lint opt=a:1 after=@gate result=me:1 data=k:v finalize"); /* says what is */
  fx_write(f, "@c");
  assert_int_equal(f->journal.len, records);
}

static void options_merge_key_by_key(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@c opt=a:1 opt=b:1; s opt=x:1");
  fx_write(f, "@c opt=b:2 opt=c:2; s opt=y:2");
  tci_command same = fx_parse_write(&f->arena, f->plan_id, "@c opt=a:1 opt=b:2 opt=c:2; s opt=x:1 opt=y:2");
  assert_true(tci_str_eq(fx_check(f, "c")->options, same.write_nodes.checks[0].options));
  assert_true(tci_str_eq(fx_stage(f, "s")->args, same.write_nodes.stages[0].args));
}

static void results_by_owner(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@c; s runner=go checks=c");
  fx_write(f, "@c result=me:1 data=k:1");
  fx_is(f, "@c", "PLANNING me:1");
  fx_write(f, "@c result=me:1 data=k:2");
  fx_write(f, "@c result=you:1 failure=no finalize"); /* the stage still owes its own */
  fx_is(f, "@c", "PLANNING me:1 you:1#!no");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "of you '1' is finalized", "@c result=you:1 data=k:2");
  fx_write(f, "@c result=you:1 failure=no"); /* the same again */
  assert_int_equal(fx_check(f, "c")->results.items[0].id, 1);
  fx_write(f, "@c result=stage:s finalize"); /* in the stage's name: nothing is missing any more */
  fx_is(f, "@c", "FINAL/FAILED/RESULT_FAILED me:1 you:1#!no stage:s#");
}

static void a_check_without_stages_is_final_with_a_finalized_result(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@c; @d; @e");
  fx_write(f, "@c result=me:1 finalize; @d result=me:1 finalize failure=no; @e state=FINAL result=me:1 failure=no");
  fx_is(f, "@c", "FINAL/SUCCEEDED/RESULTS_FINAL me:1#");
  fx_is(f, "@d", "FINAL/FAILED/RESULT_FAILED me:1#!no");
  fx_is(f, "@e", "FINAL/FAILED/WRITTEN me:1#!no");
  assert_int_equal(fx_plan(f)->state, TCI_PLAN_SETTLED);
}

static void dependencies_of_a_check_change_only_early(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@gate; @a; @p after=@gate; @q state=PLANNED after=@gate; @w state=PLANNED");
  fx_write(f, "@p any=@a; @q after=@a,@gate");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "dependencies: check 'w' is WAITING", "@w after=@a");
  fx_write(f, "@p any=@a"); /* the same */
}

/* ---- stages ---- */

static void stages_are_born_planned_or_final(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(
      f,
      "@gate; a runner=go after=@gate; b runner=go state=PLANNED after=@gate; c runner=go state=FINAL; d state=FINAL");
  fx_is(f, "b", "PLANNED");
  fx_is(f, "c", "FINAL/SKIPPED/WRITTEN");
  fx_is(f, "d", "FINAL/SKIPPED/WRITTEN");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "cannot become ATTEMPTING", "e runner=go state=ATTEMPTING");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "cannot become AWAITING_GROUP", "e runner=go state=AWAITING_GROUP");
}

static void the_engine_drives_a_stage_with_a_runner_type(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@gate; p runner=go after=@gate; s runner=go");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "the engine does that", "p state=ATTEMPTING");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "no legal move", "p state=AWAITING_GROUP");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "no legal move", "s state=PLANNED");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "it has a runner_type", "s state=FINAL");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "it has a runner_type", "s state=AWAITING_GROUP");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "current_attempt: the stage has a runner_type", "s uid=me");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "current_attempt: the stage has a runner_type", "new runner=go uid=me");
  fx_write(f, "p state=PLANNED; s state=ATTEMPTING"); /* they are */
  fx_write(f, "p state=FINAL");
  fx_is(f, "p", "FINAL/SKIPPED/WRITTEN");
}

static void what_a_stage_is_changes_only_while_it_is_planned(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@gate; @c; @d; p runner=go after=@gate checks=c; s runner=go checks=c");
  fx_write(f, "p runner=py mode=async checks=d after=@gate,@c");
  assert_int_equal(fx_stage(f, "p")->mode, TCI_MODE_ASYNC);
  assert_int_equal(fx_check(f, "c")->assigned.len, 1);
  assert_int_equal(fx_check(f, "d")->assigned.len, 1);
  fx_refuses(f, TCI_FAILED_PRECONDITION, "runner_type: stage 's' is ATTEMPTING", "s runner=py");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "execution_mode: stage 's' is ATTEMPTING", "s mode=async");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "assignments: stage 's' is ATTEMPTING", "s checks=d");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "dependencies: stage 's' is ATTEMPTING", "s after=@gate");
  fx_write(f, "s priority=4 attempts=2 backoff=10 backoff_max=20 timeout=30 stale=40 opt=k:v"); /* these may */
  assert_int_equal(fx_stage(f, "s")->retry.backoff_ms_max, 20);
}

static void a_final_stage_never_changes(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@c; s runner=go state=FINAL checks=c opt=a:1");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "args: stage 's' is FINAL", "s opt=a:2");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "settings: stage 's' is FINAL", "s priority=1");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "settings: stage 's' is FINAL", "s timeout=5");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "settings: stage 's' is FINAL", "s mode=async");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "dependencies: stage 's' is FINAL", "s after=@c");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "assignments: stage 's' is FINAL", "@d; s checks=d");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "FINAL is immutable", "s state=PLANNED");
  fx_write(f, "s state=FINAL checks=c opt=a:1 runner=go");
}

static void a_check_that_loses_its_last_open_stage_is_final(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@gate; @c; @d; s runner=go checks=c; t runner=go after=@gate checks=c");
  fx_answers(f, "s", "FINAL @c");
  fx_is(f, "@c", "PLANNING stage:s#");
  fx_write(f, "t checks=d");
  fx_is(f, "@c", "FINAL/SUCCEEDED/RESULTS_FINAL stage:s#");
  fx_is(f, "@d", "PLANNING");
}

/* Whatever somebody wrote in its name before: a stage that joins a check owes it a result. */
static void a_stage_that_joins_a_check_owes_a_result_of_its_own(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@gate; @c; s runner=go after=@gate; t runner=go after=@gate; u runner=go after=@gate checks=c");
  fx_write(f, "@c result=stage:s finalize");
  fx_write(f, "@c result=stage:t data=k:v");
  fx_write(f, "@c result=stage:new finalize");
  fx_write(f, "s checks=c; t checks=c; new runner=go after=@gate checks=c");
  assert_int_equal(fx_check(f, "c")->pending, 4);
  fx_write(f, "@gate state=FINAL");
  fx_answers(f, "u", "FINAL @c");
  fx_answers(f, "new", "FINAL @c");
  fx_answers(f, "t", "FINAL"); /* and what was there does not stand for it */
  fx_is(f, "@c", "PLANNING stage:s# stage:t stage:new# stage:u# stage:new#");
  fx_answers(f, "s", "FINAL @c!broken");
  fx_is(f, "@c",
        "FINAL/FAILED/NO_RESULT stage:s# stage:t stage:new# stage:u# stage:new# stage:s#!broken stage:t#!stage t: no "
        "result reported");
  fx_restart(f, TCI_EVENT_RESTARTED);
}

static void the_word_of_an_assigned_stage_stays_when_its_assignments_are_written_anew(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@gate; @c; @d; @e; s runner=go after=@gate checks=c,d; t runner=go after=@gate checks=c,d");
  fx_write(f, "@c result=stage:s finalize; @d result=stage:s data=k:v");
  fx_write(f, "s checks=e,d,c");
  fx_is(f, "@c", "PLANNING stage:s#");
  assert_int_equal(fx_check(f, "c")->pending, 1); /* t */
  fx_refuses(f, TCI_FAILED_PRECONDITION, "of stage 's' is finalized", "@c result=stage:s data=k:v");
  fx_write(f, "@d result=stage:s finalize");
  fx_is(f, "@d", "PLANNING stage:s#");
  fx_write(f, "s checks=e,d"); /* it leaves */
  assert_int_equal(fx_check(f, "c")->pending, 1);
  fx_refuses(f, TCI_FAILED_PRECONDITION, "of stage 's' is finalized", "@c result=stage:s data=k:v"); /* anybody's now */
  fx_write(f, "s checks=e,d,c"); /* and comes back */
  assert_int_equal(fx_check(f, "c")->pending, 2);
  fx_restart(f, TCI_EVENT_RESTARTED);
  assert_int_equal(fx_check(f, "c")->pending, 2);
}

static void a_stage_may_join_and_speak_in_one_write(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@gate; @c; @d; s runner=go after=@gate; t runner=go after=@gate checks=c");
  fx_write(f, "@c result=stage:s finalize failure=early");
  fx_write(f, "@c result=stage:s finalize; s checks=c"); /* a word of its own, not the one that cannot change */
  fx_is(f, "@c", "PLANNING stage:s#!early stage:s#");
  assert_int_equal(fx_check(f, "c")->pending, 1);
  fx_write(f, "@d; @c result=stage:t data=k:v; t checks=d"); /* who leaves speaks like anybody */
  fx_is(f, "@c", "FINAL/FAILED/RESULT_FAILED stage:s#!early stage:s# stage:t");
  fx_is(f, "@d", "PLANNING");
}

/* Found by a map when they are many: it knows the last one in a name, too. */
static void the_last_result_in_a_name_is_found_among_many(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@gate; @c; s runner=go after=@gate; t runner=go after=@gate checks=c");
  fx_write(f, "@c result=stage:s finalize");
  fx_write(f, "s checks=c");
  fx_write(f, "@c result=stage:s data=k:v");
  for (int i = 0; i < 20; i++) fx_write(f, tci_fmt(&f->arena, "@c result=me:%d", i));
  fx_write(f, "@d; s checks=d");
  fx_write(f, "@c result=stage:s finalize failure=no"); /* the second: the first cannot change */
  assert_int_equal(fx_check(f, "c")->results.len, 22);
  assert_true(fx_check(f, "c")->results.items[1].failure.present);
}

static void a_check_that_a_stage_leaves_still_takes_the_result_of_the_same_write(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@gate; @c; @d; t runner=go checks=c; s runner=go after=@gate checks=c; deploy runner=go after=@c+");
  fx_answers(f, "t", "FINAL @c");
  fx_watch(f, 1, "checks");
  fx_write(f, "@c state=FINAL result=review:me failure=no; s checks=d"); /* now nothing is pending */
  fx_is(f, "@c", "FINAL/FAILED/WRITTEN stage:t# review:me#!no");
  fx_is(f, "deploy", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
  fx_contains(f->streams[1].ptr, "@c PLANNING>FINAL");
}

static void a_result_of_the_same_write_counts_when_the_last_stage_leaves(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@gate; @c; @d; t runner=go checks=c; s runner=go after=@gate checks=c");
  fx_answers(f, "t", "FINAL @c");
  fx_write(f, "@c result=review:me failure=no finalize; s checks=d");
  fx_is(f, "@c", "FINAL/FAILED/RESULT_FAILED stage:t# review:me#!no");
}

/* ---- several nodes in one write: their order means nothing ---- */

/* Writes the items in this order, to a plan of its own; what has become of everything. */
static const char *written_in_order(fx *f, const char *before, const char *const *items, const int *order, int len,
                                    const char *const *ids, int ids_len) {
  const char *text = "", *all = "";
  for (int i = 0; i < len; i++) text = tci_fmt(&f->arena, "%s%s%s", text, i ? "; " : "", items[order[i]]);
  fx_create(f);
  fx_write(f, before);
  fx_write(f, text);
  for (int i = 0; i < ids_len; i++) all = tci_fmt(&f->arena, "%s%s: %s\n", all, ids[i], fx_text(f, ids[i]));
  return all;
}

static void swap(int *a, int *b) {
  int was = *a;
  *a = *b;
  *b = was;
}

/* The next permutation; false after the last. */
static bool permute(int *order, int len) {
  int at = len - 2, with = len - 1;
  while (at >= 0 && order[at] > order[at + 1]) at--;
  if (at < 0) return false;
  while (order[with] < order[at]) with--;
  swap(&order[at], &order[with]);
  for (int low = at + 1, high = len - 1; low < high; low++, high--) swap(&order[low], &order[high]);
  return true;
}

static void the_order_of_the_nodes_of_a_write_means_nothing(void **state) {
  fx *f = *state;
  f->compare_every = 50; /* there will be hundreds of plans */
  fx_register(f, "r", "go", "both", 0, 0);
  static const char *const before =
      "@gate; @other; @a state=PLANNED after=@gate; @b; @c; @d state=PLANNED after=@gate; @e state=PLANNED "
      "after=@c+,@gate; "
      "p checks=a,b; q checks=c; s runner=x after=@gate checks=a,c; t runner=x after=@gate checks=b,d; "
      "u runner=x after=@a+; v runner=x after=@d!; w runner=x after=@e+";
  static const char *const ids[] = {"@gate", "@other", "@a", "@b", "@c", "@d", "@e", "p", "q", "s", "t", "u", "v", "w"};
  static const struct {
    const char *items[5];
    int len;
  } writes[] = {
      {{"@a result=me:1 failure=no finalize", "@c state=FINAL result=me:2 failure=bad", "s checks=d",
        "p uid=me attempt=COMPLETE state=FINAL", "@gate state=FINAL result=me:3 failure=shut"},
       5},
      {{"@b result=stage:p finalize", "@a result=stage:p finalize failure=no", "s checks=b", "t checks=a",
        "p uid=me attempt=COMPLETE state=FINAL"},
       5},
      {{"@e result=me:1 finalize", "@d after=@other", "@other state=FINAL", "t state=FINAL",
        "q uid=me failure=no state=FINAL"},
       5},
      {{"@b state=PLANNED after=@gate! result=me:1 finalize", "@gate state=FINAL", "t checks=d",
        "@c result=stage:q finalize", "p uid=me attempt=COMPLETE state=FINAL"},
       5},
      {{"s checks=c after=@other", "t checks=a state=FINAL", "@other state=FINAL",
        "@c result=stage:q failure=no finalize", "@d state=FINAL result=me:1"},
       5},
  };
  for (size_t i = 0; i < sizeof writes / sizeof writes[0]; i++) {
    int order[] = {0, 1, 2, 3, 4};
    const char *first = NULL;
    do {
      const char *text = written_in_order(f, before, writes[i].items, order, writes[i].len, ids, 14);
      if (!first) first = text;
      assert_string_equal(text, first);
    } while (permute(order, writes[i].len));
  }
}

/* ---- pulled stages ---- */

static void a_pulled_stage_is_claimed_completed_and_made_final(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@gate; @c; s after=@gate checks=c");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "is PLANNED and has no attempt yet", "s uid=me");
  fx_write(f, "@gate state=FINAL");
  fx_is(f, "s", "ATTEMPTING 1:PENDING"); /* no execution */
  fx_refuses(f, TCI_FAILED_PRECONDITION, "nobody has claimed the attempt", "s details=k:v");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "its attempt is PENDING; complete it first", "s state=FINAL");
  fx_write(f, "s uid=me");
  fx_is(f, "s", "ATTEMPTING 1:RUNNING");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "belongs to 'me' already", "s uid=you");
  fx_write(f, "s uid=me details=a:1 progress=half");
  fx_write(f, "s details=b:2");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "its attempt is RUNNING", "s state=FINAL");
  fx_write(f, "s attempt=COMPLETE");
  fx_is(f, "s", "ATTEMPTING 1:COMPLETE");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "is COMPLETE and cannot become", "s progress=late");
  fx_write(f, "s attempt=COMPLETE"); /* it is */
  fx_write(f, "s state=FINAL");
  fx_is(f, "s", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:COMPLETE");
  fx_is(f, "@c", "FINAL/FAILED/NO_RESULT stage:s#!stage s: no result reported");
  assert_int_equal(fx_attempt(f, "s")->progress.len, 1);
}

static void a_pulled_stage_in_one_write(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@c; s checks=c; t; u");
  fx_write(f,
           "@c result=stage:s finalize failure=no; s uid=me attempt=COMPLETE state=FINAL; t uid=me failure=broken "
           "state=FINAL");
  fx_is(f, "s", "FINAL/FAILED/CHECK_FAILED 1:COMPLETE");
  fx_is(f, "@c", "FINAL/FAILED/RESULT_FAILED stage:s#!no");
  fx_is(f, "t", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE!REPORTED");
  fx_write(f, "u uid=me attempt=COMPLETE state=AWAITING_GROUP"); /* it has no children */
  fx_is(f, "u", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:COMPLETE");
}

static void attempts_of_pulled_stages_do_not_go_backwards(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "s; t; u");
  fx_write(f, "s uid=me; t uid=me attempt=SCHEDULED; u uid=me attempt=INCOMPLETE");
  fx_is(f, "t", "ATTEMPTING 1:SCHEDULED");
  fx_is(f, "u", "ATTEMPTING 1:INCOMPLETE!REPORTED");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "is RUNNING and cannot become SCHEDULED", "s attempt=SCHEDULED");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "is RUNNING and cannot become PENDING", "s attempt=PENDING");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "is INCOMPLETE and cannot become COMPLETE", "u attempt=COMPLETE");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "COMPLETE has none", "s attempt=COMPLETE failure=odd");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "RUNNING has none", "s attempt=RUNNING failure=odd");
  fx_refuses(f, TCI_FAILED_PRECONDITION, "and has no attempt yet", "new uid=me");
}

/* ---- plans ---- */

static void a_settled_plan_is_active_again_with_new_nodes(void **state) {
  fx *f = *state;
  fx_create(f);
  assert_int_equal(fx_plan(f)->state, TCI_PLAN_ACTIVE); /* no nodes yet */
  fx_write(f, "@a state=FINAL");
  assert_int_equal(fx_plan(f)->state, TCI_PLAN_SETTLED);
  assert_true(f->update.records.items[0].settled);
  fx_write(f, "@b");
  assert_int_equal(fx_plan(f)->state, TCI_PLAN_ACTIVE);
  assert_false(f->update.records.items[0].settled);
  fx_write(f, "@b state=FINAL result=me:1 failure=no");
  assert_int_equal(fx_plan(f)->outcome, TCI_OUTCOME_FAILED);
}

static void plans_have_ids_and_metadata_of_their_own(void **state) {
  fx *f = *state;
  tci_pair items[] = {{TCI_STR("branch"), TCI_STR("main")}};
  tci_command cmd = {.kind = TCI_COMMAND_CREATE_PLAN, .create_plan.metadata = {items, 1}};
  const tci_plan *plan = fx_command(f, cmd)->plan;
  assert_true(tci_str_eq(plan->metadata.items[0].value, TCI_STR("main")));
  assert_int_equal(plan->id.len, 29);
  tci_str first = tci_str_copy(&f->arena, plan->id);
  assert_false(tci_str_eq(first, fx_create(f)));
  assert_int_equal(fx_plan(f)->key, 2);
}

static void keys_of_plans_go_on_where_the_journal_ended(void **state) {
  fx *f = *state;
  tci_core_set_next_plan_key(f->core, 7);
  tci_core_set_next_plan_key(f->shadow, 7);
  fx_create(f);
  assert_int_equal(fx_plan(f)->key, 7);
  tci_core_set_next_plan_key(f->core, 3); /* never back */
  fx_create(f);
  assert_int_equal(fx_plan(f)->key, 8);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(keys_of_plans_go_on_where_the_journal_ended),
      CLAIM(missing_ids_and_plans_are_refused),
      CLAIM(a_check_and_a_stage_may_share_an_id),
      CLAIM(unknown_targets_are_refused_by_name),
      CLAIM(one_fault_undoes_the_whole_write),
      CLAIM(limits_are_kept),
      CLAIM(a_reply_over_the_limit_is_refused_before_the_write),
      CLAIM(what_a_reply_takes_is_measured),
      CLAIM(the_reply_has_the_nodes_in_request_order),
      CLAIM(versions_rise_by_one_per_step_that_changes),
      CLAIM(a_setting_said_again_is_no_change),
      CLAIM(plans_and_attempts_say_when_they_were_made_and_last_changed),
      CLAIM(progress_has_the_time_its_client_gave_or_that_of_the_write),
      CLAIM(expected_versions_make_a_write_optimistic),
      CLAIM(checks_are_born_planning_planned_or_final),
      CLAIM(checks_move_by_one_or_to_final_and_the_engine_makes_them_wait),
      CLAIM(a_final_check_never_changes),
      CLAIM(options_merge_key_by_key),
      CLAIM(results_by_owner),
      CLAIM(a_check_without_stages_is_final_with_a_finalized_result),
      CLAIM(dependencies_of_a_check_change_only_early),
      CLAIM(stages_are_born_planned_or_final),
      CLAIM(the_engine_drives_a_stage_with_a_runner_type),
      CLAIM(what_a_stage_is_changes_only_while_it_is_planned),
      CLAIM(a_final_stage_never_changes),
      CLAIM(a_check_that_loses_its_last_open_stage_is_final),
      CLAIM(a_check_that_a_stage_leaves_still_takes_the_result_of_the_same_write),
      CLAIM(a_result_of_the_same_write_counts_when_the_last_stage_leaves),
      CLAIM(the_order_of_the_nodes_of_a_write_means_nothing),
      CLAIM(a_stage_that_joins_a_check_owes_a_result_of_its_own),
      CLAIM(the_word_of_an_assigned_stage_stays_when_its_assignments_are_written_anew),
      CLAIM(a_stage_may_join_and_speak_in_one_write),
      CLAIM(the_last_result_in_a_name_is_found_among_many),
      CLAIM(a_pulled_stage_is_claimed_completed_and_made_final),
      CLAIM(a_pulled_stage_in_one_write),
      CLAIM(attempts_of_pulled_stages_do_not_go_backwards),
      CLAIM(a_settled_plan_is_active_again_with_new_nodes),
      CLAIM(plans_have_ids_and_metadata_of_their_own),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
