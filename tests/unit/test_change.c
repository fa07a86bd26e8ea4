/* change: what is written is read back, field by field; older and newer engines read each other; broken bytes are refused. */
#include "core_test.h"

enum { WORDS = sizeof(tci_change) / sizeof(uint64_t) };

/* Every member filled with something of its own. */
static tci_change full_change(void) {
  tci_change c = {0};
  static const char text[] = "abcdefghijklmnopqrstuvwxyz0123456789";
  size_t n = 1;
#define U(member) c.member = n << 40 | 5, n++
#define S(member) c.member = (tci_str){text + n % 20, 1 + n % 9}, n++
  U(type), U(node), U(version), U(state), U(outcome), U(reason), S(id), S(kind), S(bytes), S(dependencies),
      S(assignments);
  U(mode), U(priority), U(retry_max), U(backoff_ms), U(backoff_ms_max), U(execution_ms), U(stale_ms), U(attempt),
      U(execution);
  S(execution_id), S(process_uid), S(runner_id), S(registration_id), S(runner_execution_id), U(not_before_us),
      U(deadline_us);
  U(accepted), U(failed), U(failure_kind), S(failure_message), U(failure_us), U(has_digest), U(digest0), U(digest1),
      S(message);
  U(result), S(owner_type), S(owner_id), U(finalized), S(address), U(max_concurrent), U(ttl_ms), S(metadata), U(at_us);
  U(edges_follow), U(created), U(move_follows), S(policy), S(policy_version), S(decision), S(exclude), S(keys),
      U(until_us), U(entry), U(plan_key);
#undef U
#undef S
  return c;
}

static void every_field_survives(void **state) {
  (void)state;
  tci_change c = full_change(), back;
  const uint64_t *words = (const uint64_t *)(const void *)&c;
  for (size_t i = 0; i < WORDS; i++) assert_true(words[i] != 0); /* a new member must be added here, too */
  tci_buf out = {0}, again = {0};
  tci_change_encode(&c, &out);
  assert_true(tci_change_decode(tci_buf_str(&out), &back));
  assert_int_equal(back.version, c.version);
  assert_int_equal(back.move_follows, c.move_follows);
  assert_true(tci_str_eq(back.metadata, c.metadata));
  tci_change_encode(&back, &again);
  assert_true(tci_str_eq(tci_buf_str(&out), tci_buf_str(&again)));
  /* The strings point into the bytes. */
  assert_true(back.id.ptr > out.ptr && back.id.ptr < out.ptr + out.len);
  tci_buf_deinit(&out);
  tci_buf_deinit(&again);
}

static void zeros_are_not_written(void **state) {
  (void)state;
  tci_buf out = {0};
  tci_change_encode(&(tci_change){.type = TCI_CHANGE_PLAN_STATE}, &out);
  assert_int_equal(out.len, 2);
  tci_change back;
  assert_true(tci_change_decode(tci_buf_str(&out), &back));
  assert_int_equal(back.type, TCI_CHANGE_PLAN_STATE);
  assert_int_equal(back.node, 0);
  assert_int_equal(back.id.len, 0);
  tci_buf_deinit(&out);
}

static void fields_of_a_newer_engine_are_skipped(void **state) {
  (void)state;
  tci_buf out = {0};
  tci_change_encode(&(tci_change){.type = TCI_CHANGE_CHECK_STATE, .node = 3}, &out);
  tci_wire_put_uint(&out, 900, 7);
  tci_wire_put_bytes(&out, 901, TCI_STR("news"));
  tci_change back;
  assert_true(tci_change_decode(tci_buf_str(&out), &back));
  assert_int_equal(back.node, 3);
  tci_buf_deinit(&out);
}

static void malformed_changes_are_refused(void **state) {
  (void)state;
  tci_change back;
  assert_false(tci_change_decode(TCI_STR(""), &back));                  /* no type */
  assert_false(tci_change_decode(TCI_STR("\x08"), &back));              /* cut */
  assert_false(tci_change_decode(TCI_STR("\x0a\x01x"), &back));         /* type as a string */
  assert_false(tci_change_decode(TCI_STR("\x08\x01\x38\x05"), &back));  /* id (7) as a number */
  assert_false(tci_change_decode(TCI_STR("\x08\x01\x3a\x09x"), &back)); /* longer than the bytes */
}

static void zigzag_keeps_negative_numbers_small(void **state) {
  (void)state;
  const int64_t values[] = {0, -1, 1, -100, 100, INT64_MAX, INT64_MIN};
  for (size_t i = 0; i < 7; i++) assert_true(tci_unzigzag(tci_zigzag(values[i])) == values[i]);
  assert_int_equal(tci_zigzag(-1), 1);
}

static void edges_survive_in_order(void **state) {
  (void)state;
  tci_buf out = {0};
  tci_edges_put_predicate(&out, TCI_PREDICATE_OR);
  tci_edges_put(&out, 1, TCI_ON_SUCCESS);
  tci_edges_put(&out, UINT32_MAX, TCI_ON_FINAL);
  tci_edges_reader reader;
  uint64_t predicate;
  size_t len;
  assert_true(tci_edges_open(tci_buf_str(&out), &reader, &predicate, &len));
  assert_int_equal(predicate, TCI_PREDICATE_OR);
  assert_int_equal(len, 2);
  assert_true(tci_edges_next(&reader));
  assert_int_equal(reader.node, 1);
  assert_int_equal(reader.number, TCI_ON_SUCCESS);
  assert_true(tci_edges_next(&reader));
  assert_int_equal(reader.node, UINT32_MAX);
  assert_int_equal(reader.number, 0);
  assert_false(tci_edges_next(&reader));
  assert_false(tci_edges_open(TCI_STR("\x12\x09"), &reader, &predicate, &len));
  tci_buf_deinit(&out);
}

static void an_edge_takes_nothing_from_the_one_before(void **state) {
  (void)state;
  tci_edges_reader reader;
  uint64_t predicate;
  size_t len;
  /* node 7 with number 2, then one of each alone: a field that is not written is 0 */
  assert_true(
      tci_edges_open(TCI_STR("\x12\x04\x08\x07\x10\x02\x12\x02\x08\x03\x12\x02\x10\x01"), &reader, &predicate, &len));
  assert_int_equal(len, 3);
  assert_true(tci_edges_next(&reader));
  assert_int_equal(reader.node, 7);
  assert_int_equal(reader.number, 2);
  assert_true(tci_edges_next(&reader));
  assert_int_equal(reader.node, 3);
  assert_int_equal(reader.number, 0);
  assert_true(tci_edges_next(&reader));
  assert_int_equal(reader.node, 0);
  assert_int_equal(reader.number, 1);
}

static void pairs_survive_with_empty_values(void **state) {
  fx *f = *state;
  tci_pair items[] = {{TCI_STR("a"), TCI_STR("")}, {TCI_STR("b"), TCI_STR("two")}};
  tci_buf out = {0};
  tci_pairs_encode((tci_pairs){items, 2}, &out);
  tci_pairs back;
  assert_true(tci_pairs_decode(tci_buf_str(&out), &f->arena, &back));
  assert_int_equal(back.len, 2);
  assert_true(tci_str_eq(back.items[0].key, TCI_STR("a")));
  assert_int_equal(back.items[0].value.len, 0);
  assert_true(tci_str_eq(back.items[1].value, TCI_STR("two")));
  assert_false(tci_pairs_decode(TCI_STR("\x0a\x05x"), &f->arena, &back));
  assert_false(tci_pairs_decode(TCI_STR("\x08\x05"), &f->arena, &back));
  tci_buf_deinit(&out);
}

static void records_hold_their_changes_in_order(void **state) {
  (void)state;
  tci_buf out = {0}, scratch = {0};
  tci_record_put_header(&out, 1234, 9);
  tci_record_put_change(&out, &(tci_change){.type = TCI_CHANGE_CHECK_STATE, .node = 1}, &scratch);
  tci_record_put_change(&out, &(tci_change){.type = TCI_CHANGE_STAGE_STATE, .node = 2}, &scratch);
  tci_record_reader reader;
  assert_true(tci_record_open(tci_buf_str(&out), &reader));
  assert_int_equal(reader.wall_us, 1234);
  assert_int_equal(reader.version, 9);
  assert_int_equal(reader.changes, 2);
  tci_change c;
  assert_int_equal(tci_record_next(&reader, &c), 1);
  assert_int_equal(c.type, TCI_CHANGE_CHECK_STATE);
  assert_int_equal(tci_record_next(&reader, &c), 1);
  assert_int_equal(c.node, 2);
  assert_int_equal(tci_record_next(&reader, &c), 0);
  tci_buf_deinit(&out);
  tci_buf_deinit(&scratch);
}

static void records_cut_anywhere_or_of_another_format_are_refused(void **state) {
  (void)state;
  tci_buf out = {0}, scratch = {0};
  tci_record_put_header(&out, 1234, 9);
  assert_false(tci_record_open(tci_buf_str(&out), &(tci_record_reader){0})); /* no change */
  size_t header = out.len;
  tci_change c = full_change();
  tci_record_put_change(&out, &c, &scratch);
  for (size_t len = header + 1; len < out.len; len++) {
    tci_record_reader reader;
    assert_false(tci_record_open((tci_str){out.ptr, len}, &reader));
  }
  tci_record_reader reader;
  assert_true(tci_record_open(tci_buf_str(&out), &reader));
  out.ptr[1] = 2; /* the format */
  assert_false(tci_record_open(tci_buf_str(&out), &reader));
  tci_buf_deinit(&out);
  tci_buf_deinit(&scratch);
}

static void load_refused(fx *f, const tci_record *record, const char *part) {
  tci_core *core = fx_replay(f);
  tci_status status = tci_core_load(core, record);
  assert_int_equal(status.code, TCI_DATA_LOSS);
  fx_contains(status.message, part);
  tci_core_free(core);
}

/* A record of one change to f's plan, as the next in its journal. */
static void change_refused(fx *f, tci_change c, const char *part) {
  tci_buf out = {0}, scratch = {0};
  tci_record_put_header(&out, 1, 99);
  tci_record_put_change(&out, &c, &scratch);
  tci_record record = {.plan_key = fx_plan(f)->key, .sequence = fx_plan(f)->sequence + 1, .bytes = tci_buf_str(&out)};
  load_refused(f, &record, part);
  tci_buf_deinit(&out);
  tci_buf_deinit(&scratch);
}

/* The same for plan 0. */
static void runner_refused(fx *f, tci_change c, const char *part) {
  tci_buf out = {0}, scratch = {0};
  tci_record_put_header(&out, 1, 0);
  tci_record_put_change(&out, &c, &scratch);
  tci_record record = {.sequence = f->core->sequence + 1, .bytes = tci_buf_str(&out)};
  load_refused(f, &record, part);
  tci_buf_deinit(&out);
  tci_buf_deinit(&scratch);
}

static void runners_and_policies_without_a_name_are_refused(void **state) {
  fx *f = *state;
  const tci_str x = TCI_STR("x");
  runner_refused(f, (tci_change){.type = TCI_CHANGE_RUNNER, .registration_id = x, .kind = x}, "without ids");
  runner_refused(f, (tci_change){.type = TCI_CHANGE_RUNNER, .id = x, .kind = x}, "without ids");
  runner_refused(f, (tci_change){.type = TCI_CHANGE_RUNNER, .id = x, .registration_id = x}, "without ids");
  runner_refused(f, (tci_change){.type = TCI_CHANGE_RUNNER_GONE, .registration_id = x}, "not there");
  runner_refused(f, (tci_change){.type = TCI_CHANGE_POLICY, .state = TCI_POLICY_LIVE}, "without name");
  runner_refused(f, (tci_change){.type = TCI_CHANGE_POLICY, .id = x}, "without name or state");
  runner_refused(f, (tci_change){.type = TCI_CHANGE_POLICY, .id = x, .state = 9}, "without name or state");
  runner_refused(f, (tci_change){.type = TCI_CHANGE_PLAN_STATE}, "no plan");
}

static void numbers_that_no_engine_writes_are_refused(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@c; s runner=go");
  const tci_change stage = {.type = TCI_CHANGE_STAGE_UPDATED, .node = 2};
  const tci_change attempt = {.type = TCI_CHANGE_ATTEMPT, .node = 2, .attempt = 1};
  const tci_str x = TCI_STR("x");
  const tci_change runner = {.type = TCI_CHANGE_RUNNER, .id = x, .registration_id = x, .kind = x};
#define ROW(of, member, value) \
  { #member, of, offsetof(tci_change, member), value }
  const struct {
    const char *name;
    tci_change of;
    size_t offset;
    uint64_t value;
  } rows[] = {
      ROW(stage, mode, 77),
      ROW(stage, mode, 3),
      ROW(stage, priority, UINT64_MAX),
      ROW(stage, retry_max, INT64_MAX),
      ROW(stage, backoff_ms, (uint64_t)1 << 62),
      ROW(stage, backoff_ms_max, UINT64_MAX),
      ROW(stage, execution_ms, INT64_MAX),
      ROW(stage, stale_ms, INT64_MAX),
      ROW(stage, version, UINT64_MAX),
      ROW(attempt, deadline_us, INT64_MAX),
      ROW(attempt, not_before_us, UINT64_MAX),
      ROW(attempt, failure_kind, 11),
      ROW(attempt, execution, 4294967296u + 20),
      ROW(attempt, state, 4294967296u + 20),
      ROW(runner, ttl_ms, INT64_MAX),
      ROW(runner, max_concurrent, UINT64_MAX),
      ROW(runner, mode, 8),
  };
#undef ROW
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    tci_change c = rows[i].of;
    assert_null(tci_change_fault(&c));
    memcpy((char *)&c + rows[i].offset, &rows[i].value, sizeof rows[i].value);
    if (!tci_change_fault(&c)) fail_msg("row %zu: %s may be %llu", i, rows[i].name, (unsigned long long)rows[i].value);
    if (c.type == TCI_CHANGE_RUNNER)
      runner_refused(f, c, "beyond what it can be");
    else
      change_refused(f, c, rows[i].value == 3 ? "a mode that there is not" : "beyond what it can be");
  }
  fx_register(f, "a", "go", "sync", 0, 0);
  tci_change keys = attempt; /* it is live now, and holds what it holds */
  keys.keys = TCI_STR("\x0a\x01k");
  change_refused(f, keys, "holds admission keys");
  change_refused(f, (tci_change){.type = TCI_CHANGE_PLAN_STATE, .state = 30}, "a plan in a state");
  change_refused(f, (tci_change){.type = TCI_CHANGE_EDGES, .node = 2, .dependencies = TCI_STR("\x08\x03")},
                 "predicate");
  change_refused(f,
                 (tci_change){.type = TCI_CHANGE_EDGES, .node = 2, .dependencies = TCI_STR("\x12\x04\x08\x01\x10\x03")},
                 "condition");
  change_refused(
      f, (tci_change){.type = TCI_CHANGE_EDGES, .node = 2, .assignments = TCI_STR("\x12\x04\x08\x01\x10\x63")}, "goal");
}

static void a_journal_that_does_not_fit_the_model_is_refused(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@c; s runner=go; done state=FINAL");
  change_refused(f, (tci_change){.type = 77, .node = 1}, "unknown type");
  change_refused(f, (tci_change){.type = TCI_CHANGE_CHECK_STATE, .node = 9, .state = 40}, "no node");
  change_refused(f, (tci_change){.type = TCI_CHANGE_CHECK_STATE, .node = 2, .state = 40}, "a stage");
  change_refused(f, (tci_change){.type = TCI_CHANGE_STAGE_STATE, .node = 1, .state = 40}, "a check");
  change_refused(f, (tci_change){.type = TCI_CHANGE_STAGE_STATE, .node = 3, .state = 10}, "illegal move");
  change_refused(f, (tci_change){.type = TCI_CHANGE_CHECK_STATE, .node = 1, .state = 30}, "illegal move");
  change_refused(f, (tci_change){.type = TCI_CHANGE_CHECK_CREATED, .id = TCI_STR("c"), .state = 10}, "twice");
  change_refused(f, (tci_change){.type = TCI_CHANGE_CHECK_CREATED, .id = TCI_STR("d"), .state = 40}, "odd state");
  change_refused(f, (tci_change){.type = TCI_CHANGE_STAGE_CREATED, .id = TCI_STR("s")}, "twice");
  change_refused(f, (tci_change){.type = TCI_CHANGE_CHECK_RESULT, .node = 1, .result = 2}, "out of order");
  change_refused(f, (tci_change){.type = TCI_CHANGE_ATTEMPT, .node = 2, .attempt = 3}, "out of order");
  change_refused(f, (tci_change){.type = TCI_CHANGE_ATTEMPT, .node = 2}, "without index");
  change_refused(f, (tci_change){.type = TCI_CHANGE_ATTEMPT, .node = 2, .attempt = 1, .state = 40}, "illegal move");
  change_refused(f, (tci_change){.type = TCI_CHANGE_ATTEMPT, .node = 2, .attempt = 1, .execution = 40}, "illegal move");
  change_refused(f, (tci_change){.type = TCI_CHANGE_PROGRESS, .node = 3, .attempt = 1}, "no attempt");
  change_refused(f, (tci_change){.type = TCI_CHANGE_EDGES, .node = 2, .dependencies = TCI_STR("\x12\x02\x08\x63")},
                 "nowhere");
  change_refused(f, (tci_change){.type = TCI_CHANGE_EDGES, .node = 2, .assignments = TCI_STR("\x12\x02\x08\x04")},
                 "an assignment leads nowhere");
  change_refused(f, (tci_change){.type = TCI_CHANGE_EDGES, .node = 2, .assignments = TCI_STR("\x12\x02\x10\x01")},
                 "an assignment leads nowhere");
  change_refused(f, (tci_change){.type = TCI_CHANGE_EDGES, .node = 2, .assignments = TCI_STR("\x12\x02\x08\x03")},
                 "to a stage");
  change_refused(f, (tci_change){.type = TCI_CHANGE_EDGES, .node = 1, .assignments = TCI_STR("\x12\x02\x08\x01")},
                 "to a check");
}

/* FINAL is for ever; but journals of earlier engines may hold results of checks that were FINAL, and are loaded as they are. */
static void what_is_final_never_changes_but_is_loaded_as_it_was(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@c state=FINAL; done state=FINAL");
  tci_change result = {.type = TCI_CHANGE_CHECK_RESULT,
                       .node = 1,
                       .version = 2,
                       .result = 1,
                       .owner_type = TCI_STR("me"),
                       .owner_id = TCI_STR("1"),
                       .finalized = true,
                       .failed = true};
  tci_change args = {.type = TCI_CHANGE_STAGE_UPDATED, .node = 2, .bytes = TCI_STR("x")};
  tci_core *core = fx_replay(f);
  tci_plan *plan = tci_core_plan(core, f->plan_id);
  assert_string_equal(tci_evolve(core, plan, &result, 1), "a node that is FINAL changes");
  assert_string_equal(tci_evolve(core, plan, &args, 1), "a node that is FINAL changes");
  const tci_check *check = tci_plan_check(plan, TCI_STR("c"));
  assert_int_equal(check->results.len, 0);

  tci_buf out = {0}, scratch = {0};
  tci_record_put_header(&out, 1, 3);
  tci_record_put_change(&out, &result, &scratch);
  tci_record record = {.plan_key = plan->key, .sequence = plan->sequence + 1, .bytes = tci_buf_str(&out)};
  assert_int_equal(tci_core_load(core, &record).code, TCI_OK);
  assert_int_equal(check->node.outcome, TCI_OUTCOME_SUCCEEDED); /* as everybody was told */
  assert_int_equal(check->results.len, 1);
  assert_null(tci_core_check(core, &f->arena));
  tci_core_free(core);
  tci_buf_deinit(&out);
  tci_buf_deinit(&scratch);
}

static void gaps_strangers_and_garbage_in_the_journal_are_refused(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@c");
  fx_stored last = f->journal.items[f->journal.len - 1];
  tci_record record = {last.plan_key, last.sequence, {last.bytes, last.bytes_len}, {NULL, 0}, false};
  load_refused(f, &record, "gap"); /* the same again */
  record.sequence += 2;
  load_refused(f, &record, "gap");
  record.plan_key = 55;
  load_refused(f, &record, "no plan");
  record.bytes = TCI_STR("garbage");
  load_refused(f, &record, "malformed");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(every_field_survives),
      CLAIM(zeros_are_not_written),
      CLAIM(fields_of_a_newer_engine_are_skipped),
      CLAIM(malformed_changes_are_refused),
      CLAIM(zigzag_keeps_negative_numbers_small),
      CLAIM(edges_survive_in_order),
      CLAIM(an_edge_takes_nothing_from_the_one_before),
      CLAIM(pairs_survive_with_empty_values),
      CLAIM(records_hold_their_changes_in_order),
      CLAIM(records_cut_anywhere_or_of_another_format_are_refused),
      CLAIM(numbers_that_no_engine_writes_are_refused),
      CLAIM(a_journal_that_does_not_fit_the_model_is_refused),
      CLAIM(runners_and_policies_without_a_name_are_refused),
      CLAIM(what_is_final_never_changes_but_is_loaded_as_it_was),
      CLAIM(gaps_strangers_and_garbage_in_the_journal_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
