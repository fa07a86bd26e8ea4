/* script_test: what the unit tests of engine/script start with: cmocka, a folder of its own for each test, policies
 * written into it, and a small world to ask them about: one plan, one stage, a few runners. */
#ifndef TCI_TEST_SCRIPT_TEST_H
#define TCI_TEST_SCRIPT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/wire.h"
#include "script/script.h"

enum { SX_RUNNERS = 200, SX_ATTEMPTS = 40 };

typedef struct {
  char folder[64], path[160], message[600];
  tci_limits limits;
  bool fuse;
  tci_script *script; /* the one sx_open opened last */
  tci_arena arena;    /* of answers; emptied by sx_close */
  tci_rng rng;
  tci_runner runners[SX_RUNNERS], *candidates[SX_RUNNERS];
  char names[SX_RUNNERS][16];
  tci_plan plan;
  tci_stage stage;
  tci_attempt attempts[SX_ATTEMPTS], *list[SX_ATTEMPTS];
  tci_pair pairs[4];
  tci_question question;
} sx;

/* `n` candidates "r1", "r2", ..., loads n - 1 down to 0. */
static inline void sx_candidates(sx *x, size_t n) {
  for (size_t i = 0; i < n; i++) {
    tci_runner *r = x->candidates[i] = &x->runners[i];
    *r = (tci_runner){.runner_id = {x->names[i], 0}, .runner_type = TCI_STR("go"), .max_concurrent = 1000};
    r->runner_id.len = (size_t)snprintf(x->names[i], sizeof x->names[i], "r%zu", i + 1);
    r->load = (int64_t)(n - 1 - i);
    r->serial = i + 1;
    r->slot = (uint32_t)i;
    r->revision = 1;
  }
  x->question.candidates = x->candidates;
  x->question.candidates_len = n;
}

/* `n` attempts; the last one waits, or failed as the others did: `waits`. */
static inline void sx_attempts(sx *x, size_t n, bool waits) {
  for (size_t i = 0; i < n; i++) {
    x->list[i] = &x->attempts[i];
    x->attempts[i] = (tci_attempt){.stage = &x->stage, .index = (uint32_t)i + 1, .state = TCI_ATTEMPT_INCOMPLETE};
    x->attempts[i].failure = (tci_failure){true, TCI_FAILURE_TIMEOUT, TCI_STR("too slow"), 0};
    x->attempts[i].runner_id = TCI_STR("r1");
    x->attempts[i].created_us = 1600000000000000;
    x->attempts[i].dispatched_us = 1600000002000000;
    x->attempts[i].finished_us = 1600000005500000;
  }
  x->stage.attempts.items = x->list;
  x->stage.attempts.len = n;
  x->question.attempt = &x->attempts[n - 1];
  if (!waits) return;
  x->attempts[n - 1].state = TCI_ATTEMPT_PENDING;
  x->attempts[n - 1].failure.present = false;
  x->attempts[n - 1].ready_mono_us = 4000000;
}

/* metadata of the plan: one pair */
static inline void sx_metadata(sx *x, const char *key, const char *value) {
  x->pairs[0] = (tci_pair){tci_str_from(key), tci_str_from(value)};
  x->plan.metadata = (tci_pairs){x->pairs, 1};
}

static inline int sx_setup(void **state) {
  sx *x = tci_calloc(1, sizeof *x);
  strcpy(x->folder, "/tmp/tci-script-XXXXXX");
  if (!mkdtemp(x->folder)) return -1;
  x->limits = tci_limits_default();
  x->plan.id = TCI_STR("p");
  x->plan.key = 1;
  x->plan.created_us = 1600000000000000;
  x->stage.node.plan = &x->plan;
  x->stage.node.id = TCI_STR("s");
  x->stage.node.created_us = 1600000001000000;
  x->stage.runner_type = TCI_STR("go");
  x->stage.mode = TCI_MODE_SYNC;
  x->question = (tci_question){.limits = &x->limits, .rng = &x->rng, .arena = &x->arena, .stage = &x->stage};
  x->question.now = (tci_time){5000000, 1600000010000000};
  sx_candidates(x, 3);
  sx_attempts(x, 1, true);
  *state = x;
  return 0;
}

static inline void sx_close(sx *x) {
  tci_script_close(x->script);
  x->script = NULL;
  tci_arena_deinit(&x->arena);
}

static inline int sx_teardown(void **state) {
  sx *x = *state;
  sx_close(x);
  char command[100];
  snprintf(command, sizeof command, "rm -r '%s'", x->folder);
  int result = system(command);
  free(x);
  return result;
}

#define SX_CLAIM(test) cmocka_unit_test_setup_teardown(test, sx_setup, sx_teardown)

static inline const char *sx_write_bytes(sx *x, const char *file, const char *bytes, size_t len) {
  snprintf(x->path, sizeof x->path, "%s/%s", x->folder, file);
  FILE *out = fopen(x->path, "wb");
  assert_non_null(out);
  assert_int_equal(fwrite(bytes, 1, len, out), len);
  assert_int_equal(fclose(out), 0);
  return x->path;
}

static inline const char *sx_write(sx *x, const char *file, const char *text) {
  return sx_write_bytes(x, file, text, strlen(text));
}

static inline tci_code sx_try_open(sx *x, const char *path) {
  sx_close(x);
  tci_script_options options = {.limits = x->limits, .fuse = x->fuse};
  x->message[0] = '\0';
  return tci_script_open(&options, path, &x->script, x->message, sizeof x->message).code;
}

/* Opens `text` as test.lua; must be a policy. */
static inline void sx_open(sx *x, const char *text) {
  tci_code code = sx_try_open(x, sx_write(x, "test.lua", text));
  if (code != TCI_OK) fail_msg("refused: %s", x->message);
}

/* ... must be refused, with a message that holds `part`. */
static inline void sx_refuses(sx *x, const char *part, const char *text) {
  tci_code code = sx_try_open(x, sx_write(x, "test.lua", text));
  if (code == TCI_OK) fail_msg("taken: %s", text);
  assert_int_equal(code, TCI_INVALID_ARGUMENT);
  if (!strstr(x->message, part)) fail_msg("'%s' does not hold '%s'", x->message, part);
}

/* Asks with a fresh seed: the same each time. */
static inline tci_decision sx_ask(sx *x, tci_hook hook) {
  const tci_policy *policy = tci_script_policy(x->script);
  tci_decision d = {0};
  tci_rng_init(&x->rng, (const uint8_t[32]){7});
  policy->ask(policy->self, hook, &x->question, &d);
  return d;
}

static inline void sx_contains(const char *text, const char *part) {
  if (!text || !strstr(text, part)) fail_msg("'%s' does not hold '%s'", text ? text : "(no fault)", part);
}

#endif
