/* script: policies in Lua: what they are shown, what they may answer, how they are opened and counted. The attacks are
 * in test_sandbox.c. */
#define _GNU_SOURCE 1
#include "script_test.h"

#include <sys/stat.h>

static void is(const char *text, const char *expected) {
  if (!text || strcmp(text, expected) != 0) fail_msg("'%s' is not '%s'", text ? text : "(null)", expected);
}

static const char *reason(sx *x, tci_decision d) {
  if (d.fault) fail_msg("fault: %s", d.fault);
  return tci_str_z(&x->arena, d.reason);
}

/* A select whose reason is the text that `expression` gives for ctx. */
static void open_shows(sx *x, const char *hook, const char *expression) {
  char source[4000];
  x->limits.policy_reason_bytes_max = 4000;
  snprintf(source, sizeof source,
           "local show\n"
           "function show(v)\n"
           "  if type(v) ~= 'table' then return tostring(v) end\n"
           "  local list = {}\n"
           "  for k, w in pairs(v) do list[#list + 1] = k .. '=' .. show(w) end\n"
           "  return '{' .. table.concat(list, ' ') .. '}'\n"
           "end\n"
           "return { %s = function(ctx) if ctx.plan.id ~= 'sample' then return nil, %s end end }\n",
           hook, expression);
  sx_open(x, source);
}

static void shows(sx *x, const char *expression, const char *expected) {
  open_shows(x, "select", expression);
  is(reason(x, sx_ask(x, TCI_HOOK_SELECT)), expected);
}

/* ---- what a hook is shown ---- */

static void shows_the_plan_and_the_stage(void **state) {
  sx *x = *state;
  sx_metadata(x, "branch", "main");
  x->plan.policy = TCI_STR("mine");
  x->stage.priority = -3;
  x->stage.mode = TCI_MODE_ASYNC;
  shows(x, "show(ctx.plan)", "{created=1600000000.0 id=p metadata={branch=main} policy=mine}");
  shows(x, "show(ctx.stage)", "{args={} created=1600000001.0 id=s mode=ASYNC priority=-3 runner_type=go}");
  x->plan.policy = TCI_STR("");
  x->stage.retry = (tci_retry){0, 1500, 0};
  x->stage.timeouts = (tci_timeouts){2500, 0};
  shows(x, "show(ctx.plan.policy) .. show(ctx.stage.retry) .. show(ctx.stage.timeouts)",
        "nil{backoff=1.5}{execution=2.5}");
  x->stage.retry = (tci_retry){4, 0, 3000};
  x->stage.timeouts = (tci_timeouts){0, 1};
  shows(x, "show(ctx.stage.retry) .. show(ctx.stage.timeouts)", "{backoff_max=3.0 max_attempts=4}{stale=0.001}");
  shows(x, "ctx.hook .. ' ' .. ctx.now .. show(ctx.nothing) .. show(ctx.failure)", "select 1600000010.0nilnil");
}

static void shows_the_attempts(void **state) {
  sx *x = *state;
  shows(x, "show(ctx.attempt) .. #ctx.attempts .. show(ctx.attempts)", "{excluded=0 index=1 waited=1.0}0{}");
  sx_attempts(x, 3, true);
  x->attempts[1].runner_id = TCI_STR("");
  x->attempts[1].dispatched_us = 0;
  x->attempts[1].not_before_us = 1600000004000000;
  x->attempts[1].failure.kind = TCI_FAILURE_UNREACHABLE;
  shows(x, "#ctx.attempts .. show(ctx.attempts)",
        "2{1={ended=1600000005.5 failure={kind=TIMEOUT message=too slow} index=1 queued=2.0 ran=3.5 runner=r1} "
        "2={ended=1600000005.5 failure={kind=UNREACHABLE message=too slow} index=2 queued=1.5}}");
  sx_attempts(x, 2, false);
  open_shows(x, "retry",
             "#ctx.attempts .. ctx.failure.kind .. show(ctx.attempt) .. show(ctx.runners) .. ctx.attempts[2].index");
  tci_decision d = sx_ask(x, TCI_HOOK_RETRY);
  is(reason(x, d), "2TIMEOUT{elsewhere=false excluded=0 index=2 waited=2.0}nil2");
  assert_false(d.again);
}

static void a_long_message_is_cut(void **state) {
  sx *x = *state;
  tci_buf text = {0};
  for (int i = 0; i < 3000; i++) tci_buf_add(&text, TCI_STR("\xe2\x82\xac"));
  sx_attempts(x, 1, false);
  x->attempts[0].failure.message = tci_buf_str(&text);
  open_shows(x, "retry", "#ctx.failure.message .. ' ' .. #(ctx.failure.message .. ctx.failure.message:upper())");
  is(reason(x, sx_ask(x, TCI_HOOK_RETRY)), "4095 8190");
  tci_buf_deinit(&text);
}

static void an_attempt_that_fails_now_is_the_last_one(void **state) {
  sx *x = *state;
  sx_attempts(x, 2, false);
  x->attempts[1].state = TCI_ATTEMPT_RUNNING;
  x->attempts[1].finished_us = 0;
  open_shows(x, "retry", "#ctx.attempts .. ' ' .. ctx.attempts[2].ended .. ' ' .. ctx.attempts[2].ran");
  is(reason(x, sx_ask(x, TCI_HOOK_RETRY)), "2 1600000010.0 8.0");
}

static void shows_the_limits(void **state) {
  sx *x = *state;
  x->limits.backoff_ms = 1250;
  shows(x, "show(ctx.defaults)",
        "{attempts_max=3 backoff=1.25 backoff_max=60.0 delivery_attempts_max=20 execution=3600.0 stale=300.0}");
  x->limits.attempts_max = 7; /* of the question, not of the opening */
  is(reason(x, sx_ask(x, TCI_HOOK_SELECT)),
     "{attempts_max=7 backoff=1.25 backoff_max=60.0 delivery_attempts_max=20 execution=3600.0 stale=300.0}");
}

static void add_entry(tci_buf *out, const char *key, void (*put)(tci_buf *), const char *bytes, size_t len) {
  tci_buf value = {0}, next = {0};
  if (put) put(&value);
  if (bytes) tci_buf_add(&value, (tci_str){bytes, len});
  tci_struct_set(tci_buf_str(out), tci_str_from(key), tci_buf_str(&value), &next);
  tci_buf_deinit(out);
  tci_buf_deinit(&value);
  *out = next;
}

static void put_whole(tci_buf *out) { tci_value_put_number(out, 3); }
static void put_half(tci_buf *out) { tci_value_put_number(out, 0.5); }
static void put_zero(tci_buf *out) { tci_value_put_string(out, (tci_str){"a\0b", 3}); }

static void shows_args_as_tables(void **state) {
  sx *x = *state;
  tci_buf args = {0};
  add_entry(&args, "whole", put_whole, NULL, 0);
  add_entry(&args, "half", put_half, NULL, 0);
  add_entry(&args, "zero", put_zero, NULL, 0);
  add_entry(&args, "null", NULL, "\x08\x00", 2);
  add_entry(&args, "yes", NULL, "\x20\x01", 2);
  add_entry(&args, "list", NULL, "\x32\x0b\x0a\x02\x20\x01\x0a\x02\x08\x00\x0a\x01\x00",
            13); /* the last one is malformed */
  tci_buf inner = {0}, deep = {0};
  tci_value_put_struct(&inner, tci_buf_str(&args));
  tci_struct_set(tci_buf_str(&args), TCI_STR("deep"), tci_buf_str(&inner), &deep);
  x->stage.args = tci_buf_str(&deep);
  const char *flat = "half=0.5 list={1=true 2=false 3=false} whole=3 yes=true zero=a?b}";
  char expected[300];
  snprintf(expected, sizeof expected, "{deep={%s %s", flat, flat);
  shows(x, "show(ctx.stage.args)", expected);
  shows(x, "#ctx.stage.args.list .. show(ctx.stage.args.null) .. show(ctx.stage.args.deep.whole)", "3nil3");
  x->limits.policy_view_bytes_max = (int64_t)deep.len - 1;
  shows(x, "show(ctx.stage.args) .. show(ctx.stage.args_omitted)", "niltrue");
  x->limits.policy_view_bytes_max = (int64_t)deep.len;
  shows(x, "show(ctx.stage.args_omitted)", "nil");
  tci_buf_deinit(&args);
  tci_buf_deinit(&inner);
  tci_buf_deinit(&deep);
  x->stage.args = (tci_str){0};
}

/* { a = "xxx...", b = { {}, {}, ... } } */
static tci_buf large_args(size_t text_len, int values) {
  tci_buf text = {0}, list = {0}, items = {0}, value = {0}, args = {0}, both = {0};
  for (size_t i = 0; i < text_len; i += 3) tci_buf_add(&text, TCI_STR("\xe2\x82\xac"));
  tci_value_put_string(&value, tci_buf_str(&text));
  tci_struct_set((tci_str){0}, TCI_STR("a"), tci_buf_str(&value), &args);
  for (int i = 0; i < values; i++) tci_buf_add(&items, (tci_str){"\x02\x2a\x00", 3});
  tci_value_put_list(&list, tci_buf_str(&items));
  tci_struct_set(tci_buf_str(&args), TCI_STR("b"), tci_buf_str(&list), &both);
  tci_buf *all[] = {&text, &list, &items, &value, &args};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) tci_buf_deinit(all[i]);
  return both;
}

static void a_long_text_of_args_or_metadata_is_cut(void **state) {
  sx *x = *state;
  tci_buf args = large_args(30000, 3);
  x->stage.args = tci_buf_str(&args);
  shows(x, "#ctx.stage.args.a .. ctx.stage.args.a:sub(-6) .. #ctx.stage.args.b", "8190\xe2\x82\xac...3");
  char *value = tci_malloc(10001);
  memset(value, 'v', 10000);
  value[10000] = '\0';
  sx_metadata(x, "k", value);
  shows(x, "#ctx.plan.metadata.k .. ctx.plan.metadata.k:sub(-4)", "8192v...");
  free(value);
  tci_buf_deinit(&args);
  x->stage.args = (tci_str){0};
}

static void args_of_many_values_are_not_shown_and_all_are_paid_for(void **state) {
  sx *x = *state;
  tci_buf args = large_args(3, 4094), more = large_args(3, 4095);
  open_shows(x, "select", "show(ctx.stage.args_omitted) .. (ctx.stage.args and #ctx.stage.args.b or 'none')");
  x->stage.args = tci_buf_str(&args);
  tci_decision d = sx_ask(x, TCI_HOOK_SELECT);
  is(reason(x, d), "nil4094");
  assert_true(d.cost > 4000 * 50 && d.cost < 4096 * 100);
  x->stage.args = tci_buf_str(&more);
  d = sx_ask(x, TCI_HOOK_SELECT);
  is(reason(x, d), "truenone");
  assert_true(d.cost < 20000);
  tci_buf_deinit(&args);
  tci_buf_deinit(&more);
  args = large_args(60000, 1); /* bytes cost little */
  x->stage.args = tci_buf_str(&args);
  d = sx_ask(x, TCI_HOOK_SELECT);
  is(reason(x, d), "nil1");
  assert_true(d.cost < 10000);
  tci_buf_deinit(&args);
  x->stage.args = (tci_str){0};
}

static void malformed_args_are_read_as_far_as_they_go(void **state) {
  sx *x = *state;
  open_shows(x, "select", "show(ctx.stage.args)");
  uint64_t random = 1;
  for (int i = 0; i < 3000; i++) {
    uint8_t bytes[40];
    for (size_t j = 0; j < sizeof bytes; j++) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      bytes[j] = (uint8_t)(random >> 33) & (random >> 60 ? 0x3f : 0xff);
    }
    x->stage.args = (tci_str){(char *)bytes, sizeof bytes};
    tci_decision d = sx_ask(x, TCI_HOOK_SELECT);
    assert_null(d.fault);
    if (i % 100 == 0) tci_arena_reset(&x->arena);
  }
  /* Lists in lists, deeper than anything that passes the door. */
  tci_buf deep = {0};
  for (int depth = 0; depth < 3000; depth++) {
    tci_buf values = {0}, list = {0};
    tci_wire_put_varint(&values, deep.len);
    tci_buf_add(&values, tci_buf_str(&deep));
    tci_value_put_list(&list, tci_buf_str(&values));
    tci_buf_deinit(&values);
    tci_buf_deinit(&deep);
    deep = list;
  }
  tci_buf whole = {0};
  tci_struct_set((tci_str){0}, TCI_STR("deep"), tci_buf_str(&deep), &whole);
  x->stage.args = tci_buf_str(&whole);
  open_shows(x, "select", "#ctx.stage.args.deep .. ''");
  is(reason(x, sx_ask(x, TCI_HOOK_SELECT)), "1");
  tci_buf_deinit(&deep);
  tci_buf_deinit(&whole);
  x->stage.args = (tci_str){0};
}

static void shows_the_candidates_as_they_are_now(void **state) {
  sx *x = *state;
  x->runners[1].max_concurrent = 0;
  sx_metadata(x, "zone", "b");
  x->runners[0].metadata = x->plan.metadata;
  open_shows(x, "select", "show(ctx.runners)");
  is(reason(x, sx_ask(x, TCI_HOOK_SELECT)),
     "{1={capacity=1000 failed=0 free=998 id=r1 last_failed=false load=2 metadata={zone=b} registered=0.0 succeeded=0 "
     "type=go used=0} "
     "2={failed=0 free=inf id=r2 last_failed=false load=1 metadata={} registered=0.0 succeeded=0 type=go used=0} "
     "3={capacity=1000 failed=0 free=1000 id=r3 last_failed=false load=0 metadata={} registered=0.0 succeeded=0 "
     "type=go "
     "used=0}}");
  x->runners[0].load = 5;
  x->runners[0].last_used = 17;
  x->runners[0].last_used_us = 1500000;
  x->runners[0].recent = 0x5;
  x->runners[0].recent_len = 4;
  x->runners[0].revision++;
  sx_metadata(x, "zone", "c"); /* in the same memory */
  x->runners[1].max_concurrent = 3;
  x->runners[1].registered_us = 2000000;
  x->runners[1].revision++;
  x->question.candidates_len = 2;
  is(reason(x, sx_ask(x, TCI_HOOK_SELECT)),
     "{1={capacity=1000 failed=2 free=995 id=r1 last_failed=true last_used=1.5 load=5 metadata={zone=c} registered=0.0 "
     "succeeded=2 type=go used=17} "
     "2={capacity=3 failed=0 free=2 id=r2 last_failed=false load=1 metadata={} registered=2.0 succeeded=0 type=go "
     "used=0}}");
  x->runners[0].last_used_us = 0;
  x->runners[0].metadata = (tci_pairs){0};
  x->runners[0].recent_len = 32;
  x->runners[0].recent = 0xfffffffe;
  x->runners[0].revision++;
  x->question.candidates_len = 1;
  is(reason(x, sx_ask(x, TCI_HOOK_SELECT)),
     "{1={capacity=1000 failed=31 free=995 id=r1 last_failed=false load=5 metadata={} registered=0.0 succeeded=1 "
     "type=go "
     "used=17}}");
}

static void candidates_come_and_go_in_any_order(void **state) {
  sx *x = *state;
  sx_candidates(x, SX_RUNNERS);
  open_shows(
      x, "select",
      "(function() local t = { #ctx.runners } for i, r in ipairs(ctx.runners) do t[i + 1] = r.id .. '/' .. r.load end "
      "return table.concat(t, ' ') end)()");
  uint64_t random = 5;
  x->limits.policy_instructions_max = 100000;
  for (int round = 0; round < 300; round++) {
    tci_runner *chosen[SX_RUNNERS];
    char expected[6000];
    size_t n = 0;
    for (size_t i = 0; i < SX_RUNNERS; i++) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      tci_runner *r = &x->runners[i];
      if (random >> 62 == 0) { /* another runner takes its slot */
        r->serial += 1000;
        r->revision = 1;
        r->load = (int64_t)(random >> 40 & 7);
      } else if (random >> 62 == 1) {
        r->load++;
        r->revision++;
      }
      if ((random >> 50 & 15) == 0 || (n == 0 && i == SX_RUNNERS - 1)) chosen[n++] = r;
    }
    int at = snprintf(expected, sizeof expected, "%zu", n);
    for (size_t i = 0; i < n; i++)
      at += snprintf(expected + at, sizeof expected - (size_t)at, " %.*s/%lld", TCI_STR_ARG(chosen[i]->runner_id),
                     (long long)chosen[i]->load);
    x->question.candidates = chosen;
    x->question.candidates_len = n;
    is(reason(x, sx_ask(x, TCI_HOOK_SELECT)), expected);
  }
}

static void a_core_that_was_loaded_afresh_counts_anew(void **state) {
  sx *x = *state;
  open_shows(x, "select",
             "(function() local t = {} for i, r in ipairs(ctx.runners) do t[i] = r.id .. r.type .. r.load .. "
             "show(r.metadata) end "
             "return table.concat(t, ' ') end)()");
  sx_metadata(x, "zone", "a");
  for (int i = 0; i < 3; i++) x->runners[i].metadata = x->plan.metadata;
  is(reason(x, sx_ask(x, TCI_HOOK_SELECT)), "r1go2{zone=a} r2go1{zone=a} r3go0{zone=a}");
  /* The same serials, slots and revisions, but they are others, or have forgotten what was not committed. */
  tci_pair other = {TCI_STR("zone"), TCI_STR("b")};
  x->runners[0].runner_id = TCI_STR("rX");
  x->runners[1].load = 0;
  x->runners[1].runner_type = TCI_STR("GO");
  x->runners[2].metadata = (tci_pairs){&other, 1};
  x->runners[2].heartbeat_us = 7;
  is(reason(x, sx_ask(x, TCI_HOOK_SELECT)), "rXgo2{zone=a} r2GO0{zone=a} r3go0{zone=b}");
  x->runners[2].load = 9;
  is(reason(x, sx_ask(x, TCI_HOOK_SELECT)), "rXgo2{zone=a} r2GO0{zone=a} r3go9{zone=b}");
}

static void a_view_that_is_kept_is_safe(void **state) {
  sx *x = *state;
  sx_open(x,
          "local kept = {}\n"
          "return { select = function(ctx)\n"
          "  if ctx.plan.id == 'sample' then return nil end\n"
          "  local all = {}\n"
          "  for _, k in ipairs(kept) do\n"
          "    for _, v in pairs(k) do all[#all + 1] = tostring(v) end\n"
          "  end\n"
          "  kept = { ctx, ctx.plan, ctx.plan.metadata, ctx.stage, ctx.stage.args, ctx.attempt, ctx.attempts, "
          "ctx.runners,\n"
          "    ctx.runners[1], ctx.runners[1].metadata, ctx.defaults }\n"
          "  return ctx.runners[1]\n"
          "end }\n");
  for (int i = 0; i < 10; i++) {
    x->runners[0].serial++;
    char *args = strdup("\n\x0a\n\x03key\x12\x03\x1a\x01v");
    x->stage.args = tci_str_from(args);
    assert_null(sx_ask(x, TCI_HOOK_SELECT).fault);
    free(args);
    x->stage.args = (tci_str){0};
  }
}

static void chance_comes_from_the_seed(void **state) {
  sx *x = *state;
  open_shows(x, "select",
             "('%d %d %.6f %d %d'):format(ctx.random(100), ctx.random(-5, 5), ctx.random(), ctx.random(-3, -3), "
             "ctx.random(math.mininteger, math.maxinteger))");
  tci_rng rng;
  char expected[200];
  tci_rng_init(&rng, (const uint8_t[32]){7});
  int a = (int)tci_rng_below(&rng, 100) + 1, b = (int)tci_rng_below(&rng, 11) - 5;
  double c = (double)(tci_rng_u64(&rng) >> 11) / 9007199254740992.0;
  tci_rng_below(&rng, 1);
  snprintf(expected, sizeof expected, "%d %d %.6f -3 %lld", a, b, c, (long long)(tci_rng_u64(&rng) + (1ull << 63)));
  is(reason(x, sx_ask(x, TCI_HOOK_SELECT)), expected);
  is(reason(x, sx_ask(x, TCI_HOOK_SELECT)), expected);
  static const char *const wrong[] = {"0", "2, 1", "1.5", "'1'", "{}"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    char expression[100];
    snprintf(expression, sizeof expression, "ctx.random(%s)", wrong[i]);
    open_shows(x, "select", expression);
    sx_contains(sx_ask(x, TCI_HOOK_SELECT).fault, "bad argument #");
  }
}

/* ---- answers ---- */

static void select_answers(void **state) {
  sx *x = *state;
  sx_open(x,
          "return { select = function(ctx)\n"
          "  local how = ctx.plan.metadata.how\n"
          "  if how == 'id' then return 'r2', 'by id' end\n"
          "  if how == 'view' then return ctx.runners[3] end\n"
          "  if how == 'wait' then return { wait = 1.5 }, 'later' end\n"
          "  if how == 'long' then return { wait = 1e300 } end\n"
          "  if how == 'now' then return { wait = 0 } end\n"
          "  return nil, 'nobody'\n"
          "end }\n");
  tci_decision d = sx_ask(x, TCI_HOOK_SELECT);
  assert_true(d.wait && d.wait_us == 0 && !d.runner);
  is(reason(x, d), "nobody");
  sx_metadata(x, "how", "id");
  d = sx_ask(x, TCI_HOOK_SELECT);
  assert_ptr_equal(d.runner, &x->runners[1]);
  is(reason(x, d), "by id");
  sx_metadata(x, "how", "view");
  d = sx_ask(x, TCI_HOOK_SELECT);
  assert_ptr_equal(d.runner, &x->runners[2]);
  assert_false(d.wait);
  sx_metadata(x, "how", "wait");
  d = sx_ask(x, TCI_HOOK_SELECT);
  assert_true(d.wait && d.wait_us == 1500000);
  sx_metadata(x, "how", "long");
  assert_int_equal(sx_ask(x, TCI_HOOK_SELECT).wait_us, x->limits.duration_ms_max * 1000);
  sx_metadata(x, "how", "now");
  d = sx_ask(x, TCI_HOOK_SELECT);
  assert_true(d.wait && d.wait_us == 0);
}

/* Each row: the answer of the hook, in Lua, and what must come of it: "" when it is taken, else part of the fault. */
typedef struct {
  const char *lua, *fault;
} answer;

static void answers(sx *x, tci_hook hook, const answer *rows, size_t len,
                    void (*look)(size_t row, const tci_decision *d)) {
  for (size_t i = 0; i < len; i++) {
    char source[1000];
    snprintf(source, sizeof source, "return { %s = function(ctx) if ctx.plan.id ~= 'sample' then return %s end end }",
             tci_hook_name(hook), rows[i].lua);
    sx_open(x, source);
    tci_decision d = sx_ask(x, hook);
    if (*rows[i].fault) {
      sx_contains(d.fault, rows[i].fault);
      sx_contains(d.fault, "test.lua:1: ");
      assert_true(!d.again && !d.wait && !d.says && !d.keys_len && !d.exclude.len && !d.after_us && !d.reason.len);
    } else {
      if (d.fault) fail_msg("%s: %s", rows[i].lua, d.fault);
      look(i, &d);
    }
  }
}

static void look_retry(size_t row, const tci_decision *d) {
  assert_int_equal(d->again, row > 0);
  if (row == 2) assert_int_equal(d->after_us, 250000);
  if (row == 3) {
    assert_int_equal(d->exclude.len, 2);
    assert_true(tci_str_eq(d->exclude.items[0], TCI_STR("r1")));
    assert_true(tci_str_eq(d->exclude.items[1], TCI_STR("x")));
  }
}

static void retry_answers(void **state) {
  static const answer rows[] = {
      {"nil, 'enough'", ""},
      {"{}", ""},
      {"{ after = 0.25 }", ""},
      {"{ exclude = { ctx.attempts[1], 'x', 'r1', ctx.attempts[2] } }", ""},
      {"false", "retry: expected nil or { after = seconds, exclude = { runners } }, got a boolean"},
      {"ctx.attempts", "got a table"},
      {"{ after = -1 }", "after: expected a number of seconds, got a negative one"},
      {"{ after = '1' }", "after: expected a number of seconds, got a string"},
      {"{ afer = 1 }", "did you mean 'after'?"},
      {"{ exclude = 'r1' }", "exclude: expected a list, got a string"},
      {"{ exclude = { '' } }", "exclude: it is empty"},
      {"{ exclude = { {} } }", "exclude: expected a text, got a table"},
      {"{ exclude = { a = 'r1' } }", "exclude: expected a list, 1 to n without holes"},
      {"{ exclude = { 'a', nil, 'c', [9] = 'x' } }", "exclude: expected a"},
      {"{ exclude = { ('x'):rep(257) } }", "exclude: 257 bytes, over the limit id_bytes_max (256)"},
      {"{ exclude = { '\\xff' } }", "exclude: it is not UTF-8"},
      {"{ exclude = { 'a\\n' } }", "exclude: it holds a control character"},
      {"{ exclude = (function() local t = {} for i = 1, 300 do t[i] = 'r' .. i end return t end)() }",
       "more than 256 entries"},
      {"nil, 7", "the second value is the reason"},
  };
  sx *x = *state;
  sx_attempts(x, 2, false);
  answers(x, TCI_HOOK_RETRY, rows, sizeof rows / sizeof *rows, look_retry);
}

static void look_timeout(size_t row, const tci_decision *d) {
  const int64_t expected[][3] = {{0, 0, 0}, {0, 0, 0}, {1500, 0, 0}, {1, 2000, 3000}, {2592000000, 0, 0}};
  assert_int_equal(d->execution_ms, expected[row][0]);
  assert_int_equal(d->stale_ms, expected[row][1]);
  assert_int_equal(d->queue_ms, expected[row][2]);
}

static void timeout_answers(void **state) {
  static const answer rows[] = {
      {"nil", ""},
      {"{}", ""},
      {"{ execution = 1.5 }", ""},
      {"{ execution = 1e-9 * 1e3, stale = 2, queue = 3 }", ""},
      {"{ execution = 1e18 }", ""},
      {"{ execution = 0 }", "execution: expected more than 0 seconds"},
      {"{ stale = math.huge }", "stale: expected a number of seconds, got one that is not finite"},
      {"{ queue = {} }", "queue: expected a number of seconds, got a table"},
      {"{ quue = 1 }", "did you mean 'queue'?"},
      {"10", "timeout: expected nil or { execution = seconds"},
  };
  answers(*state, TCI_HOOK_TIMEOUT, rows, sizeof rows / sizeof *rows, look_timeout);
}

static void look_priority(size_t row, const tci_decision *d) {
  const int64_t expected[] = {0, 7, 10, 100, -100, 100};
  assert_int_equal(d->says, row > 0);
  assert_int_equal(d->priority, expected[row]);
}

static void priority_answers(void **state) {
  static const answer rows[] = {
      {"nil", ""},
      {"7", ""},
      {"10.0", ""},
      {"1e300", ""},
      {"math.mininteger", ""},
      {"math.maxinteger", ""},
      {"1.5", "priority: expected nil or an integer, got a number that is none"},
      {"0/0", "got a number that is none"},
      {"math.huge", "got a number that is none"},
      {"'7'", "got a string"},
      {"{}", "got a table"},
  };
  answers(*state, TCI_HOOK_PRIORITY, rows, sizeof rows / sizeof *rows, look_priority);
}

static void look_admit(size_t row, const tci_decision *d) {
  const size_t lens[] = {0, 1, 2, 0, 0, 1};
  assert_int_equal(d->keys_len, lens[row]);
  assert_int_equal(d->wait, row == 4);
  if (row == 1) assert_true(tci_str_eq(d->keys[0].key, TCI_STR("deploy")) && d->keys[0].limit == 2);
  if (row == 2) assert_true(tci_str_eq(d->keys[1].key, TCI_STR("b")) && d->keys[1].limit == 3);
  if (row == 4) assert_int_equal(d->wait_us, 60000000);
}

static void admit_answers(void **state) {
  static const answer rows[] = {
      {"nil", ""},
      {"{ key = 'deploy', limit = 2 }", ""},
      {"{ keys = { { key = 'a', limit = 1 }, { key = 'b', limit = 3.0 } } }", ""},
      {"{ keys = {} }", ""},
      {"{ wait = 60 }", ""},
      {"{ key = 'x', limit = 1e300 }", ""},
      {"{}", "got a table without key"},
      {"{ key = 'a' }", "limit: expected an integer from 1, got a nil"},
      {"{ limit = 1 }", "got a table without key"},
      {"{ key = 'a', limit = 0 }", "limit: expected an integer from 1"},
      {"{ key = 'a', limit = 1.5 }", "limit: expected an integer from 1"},
      {"{ key = 'a', limit = 0/0 }", "limit: expected an integer from 1"},
      {"{ key = '', limit = 1 }", "key: it is empty"},
      {"{ key = 5, limit = 1 }", "key: expected a text, got a number"},
      {"{ key = 'a', limit = 1, wait = 1 }", "unknown key 'key' in the answer"},
      {"{ key = 'a', limit = 1, keys = {} }", "unknown key 'key' in the answer"},
      {"{ keys = { { key = 'a', limit = 1 }, { key = 'a', limit = 2 } } }", "keys: 'a' twice"},
      {"{ keys = { 'a' } }", "keys: expected { key = text, limit = n }, got a string"},
      {"{ keys = { { key = 'a', limit = 1, x = 1 } } }", "unknown key 'x' in the answer"},
      {"{ keys = { { key = ctx.plan, limit = 1 } } }", "key: expected a text, got a table"},
      {"{ keys = (function() local t = {} for i = 1, 17 do t[i] = { key = 'k' .. i, limit = 1 } end return t end)() }",
       "keys: more than 16 entries"},
      {"true", "admit: expected nil, { key = text, limit = n }"},
  };
  answers(*state, TCI_HOOK_ADMIT, rows, sizeof rows / sizeof *rows, look_admit);
}

static void a_reason_is_cleaned_and_cut(void **state) {
  sx *x = *state;
  sx_open(x, "return { priority = function() return 1, 'a\\n\\xff' .. ('\\u{e4}'):rep(150) end }");
  tci_decision d = sx_ask(x, TCI_HOOK_PRIORITY);
  assert_null(d.fault);
  assert_int_equal(d.reason.len, 199); /* not half a character */
  assert_true(tci_str_is_utf8(d.reason));
  assert_memory_equal(d.reason.ptr, "a ?\xc3\xa4", 5);
}

static void a_hook_that_is_not_there_is_the_built_ins(void **state) {
  sx *x = *state;
  sx_open(x, "return { admit = function() end }");
  assert_int_equal(tci_script_policy(x->script)->hooks, 1u << TCI_HOOK_ADMIT);
  assert_ptr_equal(sx_ask(x, TCI_HOOK_SELECT).runner, &x->runners[2]);
  assert_int_equal(tci_script_count(x->script).calls, 0);
}

/* ---- the library ---- */

static void the_library_is_luas_where_it_is_there(void **state) {
  sx_open(
      *state,
      "local function eq(a, b) if a ~= b then error(tostring(a) .. ' is not ' .. tostring(b), 2) end end\n"
      "local function fails(part, f, ...)\n"
      "  local good, e = pcall(f, ...)\n"
      "  if good or not e:find(part) then error(tostring(e) .. ' lacks ' .. part, 2) end\n"
      "end\n"
      "fails('too many elements to move', table.move, {}, 0, math.maxinteger, 1)\n"
      "fails('too many elements to move', table.move, {}, math.mininteger, -1, 1)\n"
      "fails('destination wrap around', table.move, {}, 1, math.maxinteger, 2)\n"
      "fails('destination wrap around', table.move, {}, 1, 2, math.maxinteger)\n"
      "eq(#table.move({ 1, 2 }, 1, 0, math.maxinteger), 2)\n"
      "local step, list = ipairs {} list[math.mininteger] = 'x' eq(select(2, step(list, math.maxinteger)), 'x')\n"
      "local late = {}\n"
      "local early = setmetatable({}, { __tostring = function()\n"
      "  setmetatable(late, { __tostring = function() return ('y'):rep(5000):sub(1, 1) end }) return 'early' end })\n"
      "eq(('<%s|%s>'):format(late, early), '<table|early>') eq(('%s'):format(late), 'y')\n"
      "local _, z = pcall(string.format, '%') eq(#z, #z:upper()) for i = 1, #z do if z:byte(i) == 0 then error 'zero' "
      "end end\n"
      "eq(select('#', 1, nil, nil), 3) eq((select(-1, 1, 2)), 2) eq(select(2, 'a', 'b'), 'b')\n"
      "fails('index out of range', select, 0) fails('index out of range', select, -2, 1)\n"
      "eq(tonumber ' 0x10 ', 16) eq(tonumber '1e1', 10.0) eq(tonumber '10x', nil) eq(tonumber 'zz' , nil)\n"
      "eq(tonumber('zz', 36), 35 * 36 + 35) eq(tonumber('-ff', 16), -255) eq(tonumber('8', 8), nil) eq(tonumber({}), "
      "nil)\n"
      "eq(tonumber(('1'):rep(300)), nil) eq(tonumber(5), 5) fails('base out of range', tonumber, '1', 1)\n"
      "eq(tostring {}, 'table') eq(tostring(eq), 'function') eq(tostring(nil), 'nil') eq(tostring(1e15), '1e+15')\n"
      "eq(tostring(setmetatable({}, { __tostring = function() return 'me' end })), 'me')\n"
      "eq(type(nil), 'nil') fails('value expected', type)\n"
      "eq(select('#', assert(1, 2, 3)), 3) fails('no', assert, false, 'no')\n"
      "local good, e = pcall(error, 'x', 0) eq(good, false) eq(e, 'x')\n"
      "eq(select(2, pcall(error)), nil) eq(select(2, pcall(error, eq)), eq)\n"
      /* metatables */
      "local C = {} C.__index = C function C.get(o) return o.v end\n"
      "local o = setmetatable({ v = 4 }, C) eq(o:get(), 4) eq(getmetatable(o), C) eq(getmetatable 'x', nil)\n"
      "eq(setmetatable(o, nil), o) eq(getmetatable(o), nil)\n"
      "local D = setmetatable({}, { __index = C }) D.__index = D eq(setmetatable({ v = 5 }, D):get(), 5)\n"
      "local log = {} local n = setmetatable({}, { __newindex = log }) n.x = 1 eq(n.x, nil) eq(log.x, 1)\n"
      "local m = { __add = function() return 'sum' end, __call = function(_, a) return a end, __le = function() return "
      "true end }\n"
      "local p = setmetatable({}, m) eq(p + 1, 'sum') eq(p(7), 7) eq(p <= p, true)\n"
      "fails('table expected', setmetatable, 1, {}) fails('table expected', setmetatable, {}, 1)\n"
      /* pairs */
      "local keys = {} for k in pairs { b = 1, [2.5] = 1, a = 1, [10] = 1, [true] = 1, [-1] = 1, [false] = 1 } do\n"
      "  keys[#keys + 1] = tostring(k) end\n"
      "eq(table.concat(keys, ' '), '-1 2.5 10 a b false true')\n"
      "local seen = {} local t = { a = 1, b = 2, c = 3 } for k in pairs(t) do seen[#seen + 1] = k t.b = nil end\n"
      "eq(table.concat(seen), 'ac') for _ in pairs {} do error 'none' end\n"
      "local big = {} for _, k in ipairs { math.maxinteger, math.mininteger, 2^53, 2^63, -2^63 } do big[k] = true end\n"
      "local order = {} for k in pairs(big) do order[#order + 1] = tostring(k) end\n"
      "eq(table.concat(order, ' '), '-9223372036854775808 9007199254740992 9223372036854775807 9.2233720368548e+18')\n"
      "fails('table expected', pairs, nil) fails('table expected', ipairs, 'x')\n"
      /* table */
      "local l = { 1, 2, 3 } table.insert(l, 4) table.insert(l, 1, 0) eq(table.concat(l, ','), '0,1,2,3,4')\n"
      "fails('position out of bounds', table.insert, l, 9, 1) fails('wrong number', table.insert, l)\n"
      "fails('table expected, got nil', table.insert, nil, 1) fails('integer expected', table.insert, l, 'x', 1)\n"
      "eq(table.remove(l), 4) eq(table.remove(l, 1), 0) eq(table.concat(l), '123') eq(table.remove {}, nil)\n"
      "eq(table.remove(l, 4), nil) fails('position out of bounds', table.remove, l, 7)\n"
      "eq(table.concat(table.move({ 1, 2, 3 }, 1, 3, 2)), '1123') eq(table.concat(table.move({ 1, 2, 3 }, 2, 3, 1)), "
      "'233')\n"
      "eq(table.concat(table.move({ 1, 2 }, 1, 2, 1, {})), '12')\n"
      "eq(select('#', table.unpack({ 1, nil, 3 }, 1, 3)), 3) eq(table.pack(1, nil).n, 2) eq(table.concat({ 1, 'a', 2.5 "
      "}, '-'), '1-a-2.5')\n"
      "eq(table.concat({}, ','), '') eq(table.concat({ 1, 2, 3 }, ',', 2, 3), '2,3') fails('at index 2', table.concat, "
      "{ 1, {} })\n"
      "for n = 0, 60 do local s = {} for i = 1, n do s[i] = i * 37 % 61 end table.sort(s)\n"
      "  for i = 2, n do eq(s[i - 1] < s[i], true) end eq(#s, n) end\n"
      "local w = {} for i = 1, 40 do w[i] = { i % 3, i } end table.sort(w, function(a, b) return a[1] < b[1] end)\n"
      "for i = 2, 40 do eq(w[i - 1][1] < w[i][1] or w[i - 1][1] == w[i][1] and w[i - 1][2] < w[i][2], true) end\n"
      /* string */
      "local s = 'hello' eq(s:sub(2, -2), 'ell') eq(s:sub(-3), 'llo') eq(s:sub(9), '') eq(s:sub(0), s) eq(s:sub(2, 1), "
      "'')\n"
      "eq(s:sub(math.mininteger, math.maxinteger), s) eq(#s, s:len()) eq(s:upper():lower(), s) eq(s:reverse(), "
      "'olleh')\n"
      "eq(s:byte(), 104) eq(s:byte(-1), 111) eq(select('#', s:byte(1, -1)), 5) eq(s:byte(9), nil) eq(string.char(104, "
      "105), 'hi')\n"
      "eq(s:find 'l', 3) eq(select(2, s:find('lo', 1)), 5) eq(s:find('l', 4), 4) eq(s:find('.', 1), nil) eq(s:find '', "
      "1) eq(s:find('', 9), nil)\n"
      "eq(('ab'):rep(3), 'ababab') eq(('ab'):rep(3, '-'), 'ab-ab-ab') eq(('x'):rep(0), '') eq(('x'):rep(-1), '') "
      "eq(('x'):rep(1, 'yy'), 'x')\n"
      "eq(('%d %5.2f|%-5s|%05d|%x|%s|%%|%g'):format(3.0, 1.5, 'a', 42, 255, true, 0.1), '3  1.50|a    "
      "|00042|ff|true|%|0.1')\n"
      "eq(('%s %s'):format(nil, {}), 'nil table') eq(('%.3s|'):format 'abcdef', 'abc|') eq(('%i'):format(7), '7')\n"
      "fails('number expected', string.format, '%d', 'x') fails('no integer', string.format, '%d', 1.5)\n"
      "fails('value expected', string.format, '%s') fails('not valid', string.format, '%') fails('not a conversion', "
      "string.format, '%q', 1)\n"
      "fails('zero bytes', string.char, 0) fails('out of range', string.char, 256)\n"
      /* math */
      "eq(math.floor(2.5), 2) eq(math.max(1, 3, 2), 3) eq(math.type(1), 'integer') eq(math.tointeger(3.0), 3) "
      "eq(math.tointeger 'x', nil)\n"
      "eq(math.ult(1, -1), true) fails('number expected, got string', math.floor, '5') eq(math.random, nil)\n"
      "return { admit = function() end }\n");
}

static void only_these_globals_are_there(void **state) {
  sx *x = *state;
  static const char *const there[] = {"assert",       "error",        "ipairs",   "pairs",  "pcall",
                                      "select",       "tonumber",     "tostring", "type",   "require",
                                      "setmetatable", "getmetatable", "math",     "string", "table"};
  static const char *const gone[] = {
      "_G", "_VERSION", "collectgarbage", "coroutine", "debug",  "dofile", "io",     "load", "loadfile", "next",
      "os", "package",  "print",          "rawequal",  "rawget", "rawlen", "rawset", "utf8", "warn",     "xpcall"};
  char source[300];
  for (size_t i = 0; i < sizeof there / sizeof *there; i++) {
    snprintf(source, sizeof source, "local _ = %s return { admit = function() end }", there[i]);
    sx_open(x, source);
  }
  for (size_t i = 0; i < sizeof gone / sizeof *gone; i++) {
    snprintf(source, sizeof source, "\nlocal _ = %s return { admit = function() end }", gone[i]);
    sx_refuses(x, "test.lua:2: global '", source);
  }
  sx_refuses(x, "test.lua:1: global 'ipair' is not defined; did you mean 'ipairs'?", "ipair()");
  sx_refuses(x, "test.lua:3: cannot set 'count'", "\n\ncount = 1");
  shows(x, "(function() local t = {} for k in pairs(string) do t[#t + 1] = k end return table.concat(t, ' ') end)()",
        "byte char find format len lower rep reverse sub upper");
  shows(x, "(function() local t = {} for k in pairs(table) do t[#t + 1] = k end return table.concat(t, ' ') end)()",
        "concat insert move pack remove sort unpack");
}

/* ---- files ---- */

static void what_is_no_policy_is_refused(void **state) {
  static const struct {
    const char *source, *message;
  } rows[] = {
      {"", "test.lua: a policy returns a table with its hooks; this file returned a nil"},
      {"return 1", "this file returned a number"},
      {"return {}", "test.lua: a policy has at least one of the hooks"},
      {"return { selct = 1, retry = function() end }", "test.lua: unknown key 'selct'; did you mean 'select'?"},
      {"return { zz = 1, aaa = 1, mm = 1, retry = function() end }", "unknown key 'aaa'"},
      {"return { function() end }", "not a key that is a number"},
      {"return { select = 1 }", "test.lua: 'select' must be a function, not a number"},
      {"return { select = function() end, description = 1 }", "'description' must be a string, not a number"},
      {"return { select = function() end, name = 'other' }", "test.lua: its name is 'other' but the file's is 'test'"},
      {"return math", "returned a table"},
      {"local x = \nreturn", "test.lua:2: "},
      {"\n\nerror 'at the top'", "test.lua:3: at the top"},
      {"while true do end", "more than 200000 instructions while it is loaded"},
      {"local t = {} for i = 1, 1e9 do t[i] = { i } end", "while it is loaded"},
      {"return { select = function(ctx)\n return ctx.runners[1].metadata.zone.x end }",
       "test.lua:2: attempt to index a nil value (field 'zone') (tried on a sample: select, stage 'test')"},
      {"return { priority = function() return 'high' end }",
       "test.lua:1: priority: expected nil or an integer, got a string (tried on"},
      {"local n = 0 return { priority = function() n = n + 1 return n end }",
       "test.lua: priority answered differently when asked twice: policies keep no state"},
      {"local n = 0 return { select = function(ctx) n = n + 1 return ctx.runners[n % #ctx.runners + 1] end }",
       "test.lua: select answered differently"},
      {"local n = 0 return { retry = function(ctx) n = n + 1 return nil, 'asked ' .. n end }",
       "retry answered differently"},
      {"local s = 'a\\0b' return { admit = function() end }", "test.lua:1: zero bytes are not for policies"},
      {"\nlocal s = '\\\\\\x00'", "test.lua:2: zero bytes"},
      {"local s = '\\u{000}'", "test.lua:1: zero bytes"},
      {"local s = '\\000'", "test.lua:1: zero bytes"},
      {"local f = function() return require 'test' end return f()", "require 'test': in a circle"},
      {"require 'nothing'", "test.lua:1: require 'nothing': there is no nothing.lua in "},
      {"require '../etc/passwd'", "test.lua:1: require '../etc/passwd': a name is letters"},
      {"require ''", "a name is letters"},
      {"goto nowhere", "test.lua:1: no visible label 'nowhere'"},
      {"local t = "
       "{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{"
       "{{{{{{"
       "{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{",
       "overflow"},
  };
  sx *x = *state;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) sx_refuses(x, rows[i].message, rows[i].source);
}

static void escapes_that_only_look_like_zero_bytes_are_fine(void **state) {
  sx_open(*state, "local s = '\\\\0 \\10 \\010 \\x01 \\u{10} \\u{0a} \\\\x00' return { admit = function() end }");
}

static void sources_that_take_the_compiler_long_are_refused(void **state) {
  sx *x = *state;
  static const char *const words[] = {"goto a ", "::a%d:: x = 1 "};
  for (int i = 0; i < 2; i++) {
    tci_buf source = {0};
    while (source.len < 20000) {
      char word[40];
      int len = snprintf(word, sizeof word, "%s", words[i]);
      tci_buf_add(&source, (tci_str){word, (size_t)len});
    }
    tci_buf_byte(&source, 0);
    sx_refuses(x, "test.lua: more than 500 times 'goto' or '::'", source.ptr);
    tci_buf_deinit(&source);
  }
}

/* `head`, `word` as often as there is room for, `tail`. */
static char *filled(const char *head, const char *word, const char *tail) {
  size_t size = 65536, tail_len = strlen(tail), word_len = strlen(word);
  char *out = tci_malloc(size + 1), *at = stpcpy(out, head);
  while ((size_t)(at - out) + word_len + tail_len < size) at = stpcpy(at, word);
  strcpy(at, tail);
  return out;
}

static void sources_whose_work_grows_with_squares_are_refused(void **state) {
  sx *x = *state;
  char locals[1400] = "local ", nested[4000] = "", tail[200] = "";
  for (int i = 0; i < 190; i++) sprintf(locals + strlen(locals), "%sl%d", i ? "," : "", i);
  strcat(locals, "\n");
  for (int i = 0; i < 2; i++) sprintf(nested + strlen(nested), "%slocal function f()\n", locals);
  for (int i = 0; i < 2; i++) strcat(tail, " end");
  const struct {
    const char *head, *word, *tail;
  } rows[] = {
      {"local a\nlocal x = a", " or a", ""},
      {"local a\nlocal x = a", " and a", ""},
      {"local a\nif a then", " elseif a then", " end"},
      {"local a\nwhile a do", " break", " end"},
      {locals, "x=x ", ""},
      {nested, "x=x ", tail},
      {nested, "l0=l0 ", tail},
      {"local a\nfor i = 1, 2 do repeat local b until", " b or", " a end"},
      {"local t = {\n", "123456789,", "}"},
      {"local t = {\n", "1.5,2e3,.25,0xff,", "}"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char *source = filled(rows[i].head, rows[i].word, rows[i].tail);
    sx_refuses(x, "this takes the compiler too long", source);
    assert_true(strncmp(x->message, "test.lua:2:", 11) == 0 || i == 5 || i == 6);
    free(source);
  }
}

static void what_is_no_code_is_no_work(void **state) {
  static const char *const words[][3] = {
      {"--[==[", " or a]]", "]==] return { admit = function() end }"},
      {"--", " or a", "\nreturn { admit = function() end }"},
      {"local t = {} ", "t.x = [[ or or or or or or or or 'a\"--]] ", "return { admit = function() end }"},
      {"local t = {} ", "t.x = 'or or or or or or \\z \n\"[[\\'--\\\\' ", "return { admit = function() end }"},
      {"local t = {} ", "t.x, t['y'] = 0x1p+4, t ", "return { admit = function() end }"},
      {"local t = {", "1234, 5,", "} return { admit = function() end }"},
      {"local t = {} ", "do local a = t.b.c end ", "t = 1 return { admit = function() end }"},
  };
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    char *source = filled(words[i][0], words[i][1], words[i][2]);
    sx *x = *state;
    tci_code code = sx_try_open(x, sx_write(x, "test.lua", source));
    if (i < 6 && code != TCI_OK) fail_msg("%zu: %s", i, x->message);
    if (i == 6) sx_contains(x->message, "attempt to index a nil value (field 'b')"); /* it was compiled */
    free(source);
  }
}

static void a_byte_order_mark_is_no_part_of_the_text(void **state) {
  sx *x = *state;
  sx_write(x, "_library.lua", "\xef\xbb\xbfreturn 'r2'");
  sx_open(x, "\xef\xbb\xbflocal text = require '_library'\nreturn { admit = function() return nil, text end }");
  assert_string_equal(reason(x, sx_ask(x, TCI_HOOK_ADMIT)), "r2");
}

static void the_work_of_all_files_counts(void **state) {
  sx *x = *state;
  char *source = filled("local a\nlocal x = a", " or a", "");
  memset(source + 12000, ' ', strlen(source) - 12000);
  memcpy(source + 11990, "\n        ", 9);
  char name[20];
  for (int i = 0; i < 3; i++) {
    snprintf(name, sizeof name, "_w%d.lua", i);
    sx_write(x, name, source);
  }
  free(source);
  sx_open(x, "require '_w0' return { admit = function() end }");
  sx_refuses(x, "_w1.lua:2: this takes the compiler too long", "require '_w0' require '_w1' require '_w2'");
}

static void compiling_again_and_again_is_counted(void **state) {
  sx *x = *state;
  char *source = filled("local a = {}\n", "a[1] = 1 ", "end");
  sx_write(x, "_bad.lua", source);
  free(source);
  sx_refuses(x, "more than 200000 instructions while it is loaded", "while true do pcall(require, '_bad') end");
}

static void the_fuse_sees_the_compiler(void **state) {
  sx *x = *state;
  char *plain = filled("local a = {}\n", "a[1] = 1 ", ""), *jumps = filled("local a\nlocal x = a", " or a", "");
  memset(jumps + 13000, ' ', strlen(jumps) - 13000);
  memcpy(jumps + 12990, "\n        ", 9);
  sx_write(x, "_a.lua", jumps);
  sx_write(x, "_b.lua", plain);
  sx_write(x, "_c.lua", plain);
  free(plain);
  free(jumps);
  const char *policy = "require '_a' require '_b' require '_c' return { admit = function() end }";
  sx_open(x, policy);
  x->fuse = true;
  x->limits.policy_cpu_ms_max = 1;
  sx_refuses(x, "more than 4 ms of CPU time while it is loaded", policy);
}

static void indexes_in_a_row_are_bounded(void **state) {
  sx *x = *state;
  static const char *const rows[] = {".y", "[1]", "[a[1].y]", "['y'].y"};
  for (size_t i = 0; i < 4; i++) {
    char source[800] = "local a\n\nlocal function f() return a";
    for (int n = 0; n < 21; n++) strcat(source, rows[i]);
    strcat(source, " end");
    sx_refuses(x, "test.lua:3: more than 20 indexes in a row", source);
  }
  sx_refuses(x, "indexes in a row", "local a return ((((a.a.a.a.a).a.a.a.a.a).a.a.a.a.a).a.a.a.a.a).a.a");
  sx_open(x,
          "local a = {} a.y = a a.f = function() return a end\n"
          "a.y.y.y.y.y.y.y.y.y.y.y.y.y.y.y.y.y.y.y.y = a\n"
          "local b = a.y.y.f(a.y.y.y.y).y.y.y.y.y.y.y.y.y.y.y.y.y.f().y.y.y.y.y.y.y.y.y.y.y.y\n"
          "local c = { a.y.y.y.y.y.y.y.y.y.y.y.y, a.y.y.y.y.y.y.y.y.y.y.y.y, [a.y.y.y.y.y.y.y.y.y.y.y] = b.y.y.y }\n"
          "return { admit = function() end }");
}

static void all_files_together_are_bounded(void **state) {
  sx *x = *state;
  char *source = filled("--", "x", "\nreturn 1"), name[20];
  for (int i = 0; i < 4; i++) {
    snprintf(name, sizeof name, "_l%d.lua", i);
    sx_write(x, name, source);
  }
  free(source);
  sx_open(x, "require '_l0' require '_l1' require '_l2' return { admit = function() end }");
  sx_refuses(x, "require '_l3': all files together are larger than 4 times the limit policy_source_bytes_max",
             "require '_l0' require '_l1' require '_l2' require '_l3'");
}

static void bytecode_is_refused(void **state) {
  sx *x = *state;
  static const char bytes[] = "\x1bLua\x54\x00\x19\x93\r\n\x1a\n";
  assert_int_equal(sx_try_open(x, sx_write_bytes(x, "test.lua", bytes, sizeof bytes)), TCI_INVALID_ARGUMENT);
  sx_contains(x->message, "test.lua:1: zero bytes");
  assert_int_equal(sx_try_open(x, sx_write_bytes(x, "test.lua", bytes, 5)), TCI_INVALID_ARGUMENT);
  sx_contains(x->message, "attempt to load a binary chunk");
}

static void files_that_cannot_be_read_are_told(void **state) {
  sx *x = *state;
  char path[200], *large = tci_malloc(70000);
  snprintf(path, sizeof path, "%s/none.lua", x->folder);
  assert_int_equal(sx_try_open(x, path), TCI_NOT_FOUND);
  sx_contains(x->message, "none.lua: there is no such file");
  memset(large, ' ', 70000);
  assert_int_equal(sx_try_open(x, sx_write_bytes(x, "large.lua", large, 65537)), TCI_RESOURCE_EXHAUSTED);
  sx_contains(x->message, "large.lua: larger than the limit policy_source_bytes_max");
  memcpy(large, "return{admit=type}", 18);
  assert_int_equal(sx_try_open(x, sx_write_bytes(x, "large.lua", large, 65536)),
                   TCI_INVALID_ARGUMENT); /* of type: no answer */
  sx_contains(x->message, "large.lua: admit: expected nil");
  free(large);
  snprintf(path, sizeof path, "%s/pipe.lua", x->folder);
  assert_int_equal(mkfifo(path, 0600), 0);
  assert_int_equal(sx_try_open(x, path), TCI_INVALID_ARGUMENT);
  sx_contains(x->message, "pipe.lua: not a regular file");
  snprintf(path, sizeof path, "%s/folder.lua", x->folder);
  assert_int_equal(mkdir(path, 0700), 0);
  assert_int_equal(sx_try_open(x, path), TCI_INVALID_ARGUMENT);
  static const char *const names[] = {"_library.lua", "two words.lua", ".lua", "policy.txt", "dot.ted.lua"};
  for (size_t i = 0; i < 5; i++) {
    assert_int_equal(sx_try_open(x, sx_write(x, names[i], "return { admit = function() end }")), TCI_INVALID_ARGUMENT);
    sx_contains(x->message, names[i]);
  }
}

static void require_looks_at_home_first(void **state) {
  sx *x = *state;
  char there[100], command[300];
  snprintf(there, sizeof there, "%s/there", x->folder);
  assert_int_equal(mkdir(there, 0700), 0);
  sx_write(x, "there/_a.lua", "return 'away'");
  sx_write(x, "there/_b.lua", "return require '_a' .. ' b'");
  sx_write(x, "there/_c.lua", "runs_once = nil");
  sx_write(x, "_a.lua", "return 'home'");
  const char *path = sx_write(x, "test.lua",
                              "local b, again = require '_b', require('_b')\n"
                              "return { admit = function() return nil, b .. tostring(b == again) end }\n");
  tci_str folders[] = {tci_str_from(there)};
  tci_script_options options = {.limits = x->limits, .folders = {folders, 1}};
  tci_status status = tci_script_open(&options, path, &x->script, x->message, sizeof x->message);
  if (status.code != TCI_OK) fail_msg("%s", status.message);
  is(reason(x, sx_ask(x, TCI_HOOK_ADMIT)), "home btrue");
  is(tci_script_path(x->script), path);

  /* The version is what sha256sum says of the files, in order of the first require. */
  snprintf(command, sizeof command, "cd '%s' && cat test.lua there/_b.lua _a.lua | sha256sum", x->folder);
  FILE *sum = popen(command, "r");
  char digits[65] = "";
  assert_non_null(sum);
  assert_int_equal(fread(digits, 1, 64, sum), 64);
  pclose(sum);
  tci_str version = tci_script_policy(x->script)->version;
  assert_int_equal(version.len, 16);
  assert_memory_equal(version.ptr, digits, 16);

  assert_false(tci_script_is_stale(x->script));
  sx_write(x, "_a.lua", "return 'HOME'");
  assert_true(tci_script_is_stale(x->script));
  sx_write(x, "_a.lua", "return 'home'");
  assert_false(tci_script_is_stale(x->script));
  snprintf(command, sizeof command, "%s/_b.lua", there);
  unlink(command);
  assert_true(tci_script_is_stale(x->script));
}

static void require_reports_its_files_mistakes(void **state) {
  sx *x = *state;
  sx_write(x, "_broken.lua", "\nlocal = 1");
  sx_refuses(x, "_broken.lua:2: ", "require '_broken'");
  sx_write(x, "_a.lua", "return require '_b'");
  sx_write(x, "_b.lua", "return require '_a'");
  sx_refuses(x, "_b.lua:1: require '_a': in a circle", "require '_a'");
  sx_write(x, "_state.lua", "local n = 0 return function() n = n + 1 return n end");
  sx_refuses(x, "answered differently", "local n = require '_state' return { priority = function() return n() end }");
  sx_write(x, "_nil.lua", "");
  sx_open(x, "assert(require '_nil' == true) return { admit = function() end }");
  char name[20], source[2000] = "";
  for (int i = 0; i < 40; i++) {
    snprintf(name, sizeof name, "_n%d.lua", i);
    sx_write(x, name, "return 1");
    snprintf(source + strlen(source), sizeof source - strlen(source), "require '_n%d' ", i);
  }
  sx_refuses(x, "more than 32 files", source);
  /* One that failed is not being loaded any more. */
  sx_write(x, "_bad.lua", "error 'bad'");
  sx_open(x,
          "local _, e = pcall(require, '_bad') local _, f = pcall(require, '_bad')\n"
          "return { admit = function() return nil, e .. ' ' .. f end }");
  is(reason(x, sx_ask(x, TCI_HOOK_ADMIT)), "_bad.lua:1: bad _bad.lua:1: bad");
}

static void what_is_in_no_folder_is_told_however_many_there_are(void **state) {
  sx *x = *state;
  enum { FOLDERS = 400 };
  static char names[FOLDERS][40];
  static tci_str folders[FOLDERS];
  for (int i = 0; i < FOLDERS; i++)
    folders[i] = (tci_str){names[i], (size_t)snprintf(names[i], sizeof names[i], "/tmp/tci-no-such-folder-%d", i)};
  tci_script_options options = {.limits = x->limits, .folders = {folders, FOLDERS}};
  const char *path = sx_write(x, "test.lua", "require '_none'");
  tci_status status = tci_script_open(&options, path, &x->script, x->message, sizeof x->message);
  assert_int_equal(status.code, TCI_INVALID_ARGUMENT);
  sx_contains(x->message, "test.lua:1: require '_none': there is no _none.lua in /tmp/tci-script-");
  sx_contains(x->message, " or /tmp/tci-no-such-folder-6 or 393 more folders");
}

static void each_policy_has_its_own_copy(void **state) {
  sx *x = *state;
  sx_write(x, "_shared.lua", "return { n = 0 }");
  const char *source =
      "local shared = require '_shared'\n"
      "return { priority = function(ctx) if ctx.plan.id ~= 'sample' then shared.n = shared.n + 1 end return shared.n "
      "end }\n";
  sx_open(x, source);
  assert_int_equal(sx_ask(x, TCI_HOOK_PRIORITY).priority, 1);
  tci_script *first = x->script;
  x->script = NULL;
  sx_open(x, source);
  assert_int_equal(sx_ask(x, TCI_HOOK_PRIORITY).priority, 1);
  assert_int_equal(sx_ask(x, TCI_HOOK_PRIORITY).priority, 2);
  tci_script_close(first);
}

static void what_a_policy_keeps_is_bounded(void **state) {
  sx *x = *state;
  sx_write(x, "_library.lua", "return ('x'):rep(7000)");
  sx_open(x,
          "local text, kept = require '_library', {}\n"
          "return { select = function(ctx)\n"
          "  if ctx.plan.id == 'sample' then return nil end\n"
          "  kept[#kept + 1] = text .. #kept\n"
          "  return ctx.runners[1], tostring(#kept)\n"
          "end }\n");
  sx_write(x, "_library.lua", "no longer Lua");
  sx_write(x, "test.lua", "nor this");
  size_t fresh = 0;
  long before = 0;
  for (int i = 0; i < 3000; i++) {
    tci_decision d = sx_ask(x, TCI_HOOK_SELECT);
    long n = atol(reason(x, d));
    assert_ptr_equal(d.runner, &x->runners[0]);
    if (n < before) fresh++;
    before = n;
    assert_true(tci_script_count(x->script).memory_bytes < 5u << 20);
    tci_arena_reset(&x->arena);
  }
  assert_true(fresh > 3); /* from the bytes of the opening */
  assert_int_equal(tci_script_count(x->script).calls, 3000);
}

static void what_keeps_much_in_few_calls_is_not_asked_for_a_while(void **state) {
  sx *x = *state;
  sx_open(x,
          "local kept, n = {}, 0\n"
          "return { admit = function(ctx)\n"
          "  if ctx.plan.id == 'sample' then return nil end\n"
          "  for i = 1, 100 do n = n + 1 kept[n] = ('x'):rep(8000) end\n"
          "  return nil, tostring(n)\n"
          "end }\n");
  int fresh = 0, kept = 0;
  for (int i = 0; i < 300; i++) {
    tci_decision d = sx_ask(x, TCI_HOOK_ADMIT);
    if (d.fault)
      is(d.fault, "test.lua: keeps more than 1048576 bytes from call to call (limit policy_memory_bytes_max)");
    kept += d.fault != NULL;
    fresh += !d.fault && tci_str_eq(d.reason, TCI_STR("100"));
    if ((i + 1) % 100 == 0) assert_true(d.fault && d.cost > 100); /* it has paid for the loading */
    if (d.fault && (i + 1) % 100 != 0) assert_int_equal(d.cost, 100);
    assert_true(tci_script_count(x->script).memory_bytes < 5u << 20);
    tci_arena_reset(&x->arena);
  }
  assert_int_equal(fresh, 3);
  assert_true(kept > 270 && kept < 297);
  assert_int_equal(tci_script_count(x->script).faults, kept);
}

/* ---- counting ---- */

static void calls_are_counted(void **state) {
  sx *x = *state;
  sx_open(
      x,
      "return { priority = function(ctx) if ctx.plan.id ~= 'sample' then error 'no' end end, admit = function() end }");
  tci_script_stats stats = tci_script_count(x->script);
  assert_true(stats.calls == 0 && stats.faults == 0 && stats.instructions == 0 && stats.p50_ns == 0 &&
              stats.p99_ns == 0);
  is(stats.last_fault, "");
  int64_t cost = 0;
  for (int i = 0; i < 99; i++) cost += sx_ask(x, TCI_HOOK_ADMIT).cost;
  tci_decision d = sx_ask(x, TCI_HOOK_PRIORITY);
  stats = tci_script_count(x->script);
  assert_int_equal(stats.calls, 100);
  assert_int_equal(stats.faults, 1);
  assert_int_equal(stats.instructions, cost + d.cost);
  is(stats.last_fault, "test.lua:1: no");
  is(d.fault, "test.lua:1: no");
  assert_true(stats.p50_ns > 0 && stats.p50_ns <= stats.p99_ns);
  assert_true(stats.memory_bytes > 10000 && stats.memory_bytes < 1000000);
}

static void the_same_question_costs_the_same_in_every_state(void **state) {
  sx *x = *state;
  const char *source =
      "return { select = function(ctx)\n"
      "  local t = {}\n"
      "  for _, r in ipairs(ctx.runners) do t[r.id] = r.load for i = 1, r.load do t[r.id .. i] = { i } end end\n"
      "  local best for id in pairs(t) do if ctx.random(4) == 1 or not best then best = id end end\n"
      "  if ctx.plan.metadata.loop then while true do t[#t + 1] = ctx.random(9) end end\n"
      "  return ctx.runners[ctx.random(#ctx.runners)], best\n"
      "end }\n";
  sx_candidates(x, 50);
  x->limits.policy_instructions_max = 60000;
  sx_open(x, source);
  tci_script *first = x->script;
  x->script = NULL;
  sx_open(x, source);
  tci_script *both[] = {first, x->script};
  for (int round = 0; round < 20; round++) {
    tci_decision d[2];
    sx_metadata(x, round % 5 == 4 ? "loop" : "no", "1");
    for (int i = 0; i < 2; i++) {
      x->script = both[i];
      d[i] = sx_ask(x, TCI_HOOK_SELECT);
    }
    assert_int_equal(d[0].cost, d[1].cost);
    assert_ptr_equal(d[0].runner, d[1].runner);
    assert_true(tci_str_eq(d[0].reason, d[1].reason));
    if (!d[0].fault != (round % 5 != 4)) fail_msg("round %d: %s", round, d[0].fault);
    if (d[0].fault) is(d[0].fault, d[1].fault);
    for (int i = 0; i < 50; i++) x->runners[i].load = (x->runners[i].load * 7 + round) % 6, x->runners[i].revision++;
  }
  tci_script_close(first);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      SX_CLAIM(shows_the_plan_and_the_stage),
      SX_CLAIM(shows_the_attempts),
      SX_CLAIM(a_long_message_is_cut),
      SX_CLAIM(an_attempt_that_fails_now_is_the_last_one),
      SX_CLAIM(shows_the_limits),
      SX_CLAIM(shows_args_as_tables),
      SX_CLAIM(a_long_text_of_args_or_metadata_is_cut),
      SX_CLAIM(args_of_many_values_are_not_shown_and_all_are_paid_for),
      SX_CLAIM(malformed_args_are_read_as_far_as_they_go),
      SX_CLAIM(shows_the_candidates_as_they_are_now),
      SX_CLAIM(candidates_come_and_go_in_any_order),
      SX_CLAIM(a_core_that_was_loaded_afresh_counts_anew),
      SX_CLAIM(a_view_that_is_kept_is_safe),
      SX_CLAIM(chance_comes_from_the_seed),
      SX_CLAIM(select_answers),
      SX_CLAIM(retry_answers),
      SX_CLAIM(timeout_answers),
      SX_CLAIM(priority_answers),
      SX_CLAIM(admit_answers),
      SX_CLAIM(a_reason_is_cleaned_and_cut),
      SX_CLAIM(a_hook_that_is_not_there_is_the_built_ins),
      SX_CLAIM(the_library_is_luas_where_it_is_there),
      SX_CLAIM(only_these_globals_are_there),
      SX_CLAIM(what_is_no_policy_is_refused),
      SX_CLAIM(escapes_that_only_look_like_zero_bytes_are_fine),
      SX_CLAIM(sources_that_take_the_compiler_long_are_refused),
      SX_CLAIM(sources_whose_work_grows_with_squares_are_refused),
      SX_CLAIM(what_is_no_code_is_no_work),
      SX_CLAIM(a_byte_order_mark_is_no_part_of_the_text),
      SX_CLAIM(the_work_of_all_files_counts),
      SX_CLAIM(compiling_again_and_again_is_counted),
      SX_CLAIM(the_fuse_sees_the_compiler),
      SX_CLAIM(indexes_in_a_row_are_bounded),
      SX_CLAIM(all_files_together_are_bounded),
      SX_CLAIM(bytecode_is_refused),
      SX_CLAIM(files_that_cannot_be_read_are_told),
      SX_CLAIM(require_looks_at_home_first),
      SX_CLAIM(require_reports_its_files_mistakes),
      SX_CLAIM(what_is_in_no_folder_is_told_however_many_there_are),
      SX_CLAIM(each_policy_has_its_own_copy),
      SX_CLAIM(what_a_policy_keeps_is_bounded),
      SX_CLAIM(what_keeps_much_in_few_calls_is_not_asked_for_a_while),
      SX_CLAIM(calls_are_counted),
      SX_CLAIM(the_same_question_costs_the_same_in_every_state),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
