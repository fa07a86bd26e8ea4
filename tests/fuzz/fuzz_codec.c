/* fuzz_codec: any bytes through every decoder of the codec (libFuzzer; built with -DTCI_FUZZ=ON, see ./dev fuzz).
 *
 * The first byte chooses the method, the second how small the arena and the limits are, the rest is the message.
 * Besides not crashing, what was accepted must keep the codec's promises: ids are short, Structs are canonical.
 */
#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"
#include "base/wire.h"
#include "rpc/codec.h"

enum { METHOD_AT = 0, SIZE_AT = 1, HEADER_BYTES = 2, DEPTH = 128 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_struct(tci_str s) {
  tci_buf again = {0};
  bool readable = tci_struct_canonical(s.len ? s : TCI_STR(""), DEPTH, &again);
  tci_assert(readable);
  tci_assert(tci_str_eq(s, tci_buf_str(&again)));
  tci_buf_deinit(&again);
}

static void check_id(const tci_limits *limits, tci_str id) {
  tci_assert(id.len <= (size_t)limits->id_bytes_max && tci_str_is_utf8(id));
  for (size_t i = 0; i < id.len; i++) tci_assert((uint8_t)id.ptr[i] >= 0x20 && id.ptr[i] != 0x7f);
}

static void check_completion(const tci_limits *limits, const tci_completion *c) {
  check_struct(c->details);
  for (size_t i = 0; i < c->updates_len; i++) {
    check_id(limits, c->updates[i].check_id);
    check_struct(c->updates[i].data);
  }
}

static void check_command(const tci_limits *limits, const tci_command *c) {
  check_id(limits, c->plan_id);
  if (c->kind == TCI_COMMAND_COMPLETE_EXECUTION) check_completion(limits, &c->complete_execution.completion);
  if (c->kind == TCI_COMMAND_CREATE_PLAN) check_id(limits, c->create_plan.policy);
  if (c->kind == TCI_COMMAND_EXPLAIN_NODE) {
    check_id(limits, c->explain_node.stage_id);
    check_id(limits, c->explain_node.check_id);
  }
  if (c->kind == TCI_COMMAND_UPDATE_EXECUTION) check_struct(c->update_execution.details);
  if (c->kind != TCI_COMMAND_WRITE_NODES) return;
  for (size_t i = 0; i < c->write_nodes.checks_len; i++) {
    check_id(limits, c->write_nodes.checks[i].id);
    check_struct(c->write_nodes.checks[i].options);
    check_struct(c->write_nodes.checks[i].result.data);
  }
  for (size_t i = 0; i < c->write_nodes.stages_len; i++) {
    check_id(limits, c->write_nodes.stages[i].id);
    check_struct(c->write_nodes.stages[i].args);
    check_struct(c->write_nodes.stages[i].attempt.details);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  if (bytes < HEADER_BYTES) return 0;
  tci_limits limits = tci_limits_default();
  tci_arena arena;
  tci_arena_init(&arena, data[SIZE_AT] < 128 ? (size_t)limits.message_arena_bytes_max : data[SIZE_AT] * 8U);
  if (data[SIZE_AT] & 1) limits.id_bytes_max = 8;
  if (data[SIZE_AT] & 2) limits.message_depth_max = 100;
  const tci_method *method = &tci_methods[data[METHOD_AT] % tci_methods_len];
  tci_str message = {(const char *)data + HEADER_BYTES, bytes - HEADER_BYTES};
  if (method->service == TCI_SERVICE_ORCHESTRATOR) {
    tci_command command;
    tci_status status = tci_codec_command(method, message, &limits, &arena, &command);
    if (status.code == TCI_OK) check_command(&limits, &command);
    tci_assert(status.code == TCI_OK || status.message);
  } else {
    tci_answer answer = {0};
    tci_codec_answer(data[SIZE_AT] & 4 ? TCI_MODE_ASYNC : TCI_MODE_SYNC, message, &limits, &arena, &answer);
    check_id(&limits, answer.runner_execution_id);
    check_completion(&limits, &answer.completion);
  }
  tci_str address;
  tci_str loopback = TCI_STR("loopback"), folder = TCI_STR("unix:/run/turboci/");
  tci_ids allowed = {(tci_str[]){loopback, folder}, 2};
  tci_status status = tci_address_resolve(message, &allowed, &arena, &address);
  tci_assert(status.code == TCI_OK ? address.len > 0 : status.message != NULL);
  tci_arena_deinit(&arena);
  return 0;
}
