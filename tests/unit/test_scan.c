/* scan: what is refused at the door, with which code and which path. Messages are put together field by field. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/wire.h"
#include "rpc/scan.h"
#include "turboci/v1/service.pb-c.h"

enum { CHECKS = 2, STAGES = 3, OPTIONS = 4 };
enum { STRUCT_FIELDS = 1, ENTRY_KEY = 1, ENTRY_VALUE = 2, VALUE_STRING = 3, VALUE_LIST = 6 };

static const ProtobufCMessageDescriptor *const write_nodes = &turboci__v1__write_nodes_request__descriptor;
static const ProtobufCMessageDescriptor *const register_runner =
    &turboci__v1__register_stage_runner_request__descriptor;

/* Scans a copy of exactly the buffer's size (so that a read past the end is seen), and empties the buffer. */
static void expect(const ProtobufCMessageDescriptor *message, tci_buf *buf, const tci_limits *limits, tci_code code,
                   const char *text_part) {
  tci_arena arena = {0};
  tci_limits usual = tci_limits_default();
  tci_str exact = tci_str_dup(tci_buf_str(buf));
  tci_status status = tci_scan(message, exact, limits ? limits : &usual, &arena);
  if (status.code != code || (text_part && !strstr(status.message, text_part)))
    fail_msg("got %s \"%s\", expected %s \"%s\"", tci_code_name(status.code), status.message ? status.message : "",
             tci_code_name(code), text_part ? text_part : "");
  tci_str_free(&exact);
  tci_arena_deinit(&arena);
  tci_buf_deinit(buf);
}

/* Wraps what is in `buf` as field `number` of an outer message. */
static void wrap(tci_buf *buf, uint32_t number) {
  tci_buf outer = {0};
  tci_wire_put_bytes(&outer, number, tci_buf_str(buf));
  tci_buf_deinit(buf);
  *buf = outer;
}

static void put_text(tci_buf *buf, uint32_t number, size_t bytes) {
  char *text = malloc(bytes);
  memset(text, 'x', bytes);
  tci_wire_put_bytes(buf, number, (tci_str){text, bytes});
  free(text);
}

static void an_empty_message_passes(void **state) {
  (void)state;
  expect(write_nodes, &(tci_buf){0}, NULL, TCI_OK, NULL);
}

static void unknown_fields_are_skipped(void **state) {
  (void)state;
  tci_buf buf = {0};
  tci_wire_put_uint(&buf, 5000, 1);
  tci_wire_put_bytes(&buf, 5001, TCI_STR("\xff\xff"));
  tci_wire_put_bytes(&buf, 5001, TCI_STR("again"));
  tci_wire_put_bytes(&buf, 1, TCI_STR("p1"));
  expect(write_nodes, &buf, NULL, TCI_OK, NULL);
}

static void malformed_bytes_are_refused(void **state) {
  (void)state;
  tci_buf cut = {0}, group = {0}, zero = {0}, inner = {0};
  tci_buf_add(&cut, TCI_STR("\x0a\x05p1"));
  expect(write_nodes, &cut, NULL, TCI_INVALID_ARGUMENT, "WriteNodesRequest: is not a well-formed");
  tci_buf_add(&group, TCI_STR("\x0b\x0c"));
  expect(write_nodes, &group, NULL, TCI_INVALID_ARGUMENT, "well-formed");
  tci_buf_add(&zero, TCI_STR("\x02\x00"));
  expect(write_nodes, &zero, NULL, TCI_INVALID_ARGUMENT, "well-formed");
  tci_buf_add(&inner, TCI_STR("\xff"));
  wrap(&inner, STAGES);
  expect(write_nodes, &inner, NULL, TCI_INVALID_ARGUMENT, "WriteNodesRequest.stages[0]: is not a well-formed");
}

static void a_wrong_wire_type_is_refused(void **state) {
  (void)state;
  tci_buf buf = {0};
  tci_wire_put_uint(&buf, 1, 7);
  expect(write_nodes, &buf, NULL, TCI_INVALID_ARGUMENT, "WriteNodesRequest.work_plan_id: has the wrong wire type");
}

static void a_message_over_the_limit_is_too_large(void **state) {
  (void)state;
  tci_limits limits = tci_limits_default();
  limits.message_bytes_max = 100;
  tci_buf buf = {0};
  put_text(&buf, 5000, 96); /* behind 3 bytes of tag and 1 of length */
  expect(write_nodes, &buf, &limits, TCI_OK, NULL);
  put_text(&buf, 5000, 97);
  expect(write_nodes, &buf, &limits, TCI_RESOURCE_EXHAUSTED, "message_bytes_max");
  tci_buf stage = {0};
  put_text(&stage, 8, 70);
  tci_wire_put_bytes(&buf, 1, TCI_STR("a plan, and not the largest"));
  tci_wire_put_bytes(&buf, STAGES, TCI_STR(""));
  tci_wire_put_bytes(&buf, STAGES, tci_buf_str(&stage));
  tci_buf_deinit(&stage);
  expect(write_nodes, &buf, &limits, TCI_RESOURCE_EXHAUSTED,
         "most of it, 70 bytes, is in WriteNodesRequest.stages[1].runner_type");
}

static void the_path_names_every_level(void **state) {
  (void)state;
  tci_buf dependency = {0}, group = {0}, stage = {0}, request = {0};
  tci_wire_put_bytes(&dependency, 2, TCI_STR("no\nlines"));
  tci_wire_put_bytes(&group, 2, TCI_STR(""));
  tci_wire_put_bytes(&group, 2, tci_buf_str(&dependency));
  tci_wire_put_bytes(&stage, 5, tci_buf_str(&group));
  tci_wire_put_bytes(&request, CHECKS, TCI_STR(""));
  tci_wire_put_bytes(&request, STAGES, TCI_STR(""));
  tci_wire_put_bytes(&request, STAGES, TCI_STR(""));
  tci_wire_put_bytes(&request, STAGES, tci_buf_str(&stage));
  tci_buf_deinit(&dependency);
  tci_buf_deinit(&group);
  tci_buf_deinit(&stage);
  expect(write_nodes, &request, NULL, TCI_INVALID_ARGUMENT,
         "WriteNodesRequest.stages[2].dependencies.dependencies[1].target_id: holds a control character");
}

static void ids_are_short_and_printable(void **state) {
  (void)state;
  tci_buf buf = {0};
  put_text(&buf, 1, 256);
  expect(write_nodes, &buf, NULL, TCI_OK, NULL);
  put_text(&buf, 1, 300);
  expect(write_nodes, &buf, NULL, TCI_INVALID_ARGUMENT, "work_plan_id: is 300 bytes long; at most 256");
  tci_wire_put_bytes(&buf, 1, TCI_STR("a\x7f"));
  expect(write_nodes, &buf, NULL, TCI_INVALID_ARGUMENT, "control character");
  tci_wire_put_bytes(&buf, 1, TCI_STR("a\0b"));
  expect(write_nodes, &buf, NULL, TCI_INVALID_ARGUMENT, "NUL");
  put_text(&buf, 2, 257); /* runner_type counts as an id */
  expect(register_runner, &buf, NULL, TCI_INVALID_ARGUMENT, "runner_type: is 257 bytes");
  put_text(&buf, 6, 257); /* check_id_filter does, too, and it is a list */
  expect(&turboci__v1__watch_work_plan_request__descriptor, &buf, NULL, TCI_INVALID_ARGUMENT, "check_id_filter[0]:");
}

static void texts_may_have_lines_but_no_nul(void **state) {
  (void)state;
  tci_limits limits = tci_limits_default();
  tci_buf buf = {0};
  tci_wire_put_bytes(&buf, 3, TCI_STR("two\nlines"));
  expect(register_runner, &buf, NULL, TCI_OK, NULL);
  tci_wire_put_bytes(&buf, 3, TCI_STR("a\0b"));
  expect(register_runner, &buf, NULL, TCI_INVALID_ARGUMENT, "RegisterStageRunnerRequest.address: holds a NUL");
  limits.text_bytes_max = 300;
  put_text(&buf, 3, 301);
  expect(register_runner, &buf, &limits, TCI_OUT_OF_RANGE, "address: is 301 bytes long; at most 300");
}

static void strings_are_utf8_everywhere(void **state) {
  (void)state;
  tci_buf buf = {0};
  tci_wire_put_bytes(&buf, 1, TCI_STR("\xc3("));
  expect(write_nodes, &buf, NULL, TCI_INVALID_ARGUMENT, "work_plan_id: is not valid UTF-8");
  tci_wire_put_bytes(&buf, ENTRY_KEY, TCI_STR("\xff"));
  wrap(&buf, STRUCT_FIELDS);
  wrap(&buf, OPTIONS);
  wrap(&buf, CHECKS);
  expect(write_nodes, &buf, NULL, TCI_INVALID_ARGUMENT, "checks[0].options.fields[0].key: is not valid UTF-8");
}

static void a_struct_may_hold_nul_and_long_texts(void **state) {
  (void)state;
  tci_buf value = {0}, buf = {0};
  put_text(&value, VALUE_STRING, 100000);
  tci_wire_put_bytes(&buf, ENTRY_KEY, TCI_STR("a\0b"));
  tci_wire_put_bytes(&buf, ENTRY_VALUE, tci_buf_str(&value));
  tci_buf_deinit(&value);
  wrap(&buf, STRUCT_FIELDS);
  wrap(&buf, OPTIONS);
  wrap(&buf, CHECKS);
  expect(write_nodes, &buf, NULL, TCI_OK, NULL);
}

static void a_singular_field_stands_once(void **state) {
  (void)state;
  tci_buf buf = {0};
  tci_wire_put_bytes(&buf, 1, TCI_STR("a"));
  tci_wire_put_bytes(&buf, 1, TCI_STR("b"));
  expect(write_nodes, &buf, NULL, TCI_INVALID_ARGUMENT, "WriteNodesRequest.work_plan_id: is given twice");
  tci_wire_put_bytes(&buf, OPTIONS, TCI_STR(""));
  tci_wire_put_bytes(&buf, OPTIONS, TCI_STR(""));
  wrap(&buf, CHECKS);
  expect(write_nodes, &buf, NULL, TCI_INVALID_ARGUMENT, "checks[0].options: is given twice");
}

static void unknown_enum_values_are_named(void **state) {
  (void)state;
  tci_buf buf = {0}, packed = {0};
  tci_wire_put_uint(&buf, 2, 41);
  wrap(&buf, CHECKS);
  expect(write_nodes, &buf, NULL, TCI_INVALID_ARGUMENT, "checks[0].state: 41 is not a known CheckState");
  tci_wire_put_uint(&buf, 2, UINT64_C(1) << 32 | 20); /* its low half is PLANNED */
  wrap(&buf, CHECKS);
  expect(write_nodes, &buf, NULL, TCI_INVALID_ARGUMENT, "checks[0].state: 4294967316 is not a known");
  tci_wire_put_varint(&packed, 1);
  tci_wire_put_varint(&packed, 9);
  tci_wire_put_bytes(&buf, 4, tci_buf_str(&packed));
  tci_buf_deinit(&packed);
  expect(register_runner, &buf, NULL, TCI_INVALID_ARGUMENT, "supported_modes[1]: 9 is not a known ExecutionMode");
}

static void lists_of_numbers_may_be_packed_or_not(void **state) {
  (void)state;
  tci_buf buf = {0};
  tci_wire_put_bytes(&buf, 4, TCI_STR("\x01\x02"));
  tci_wire_put_uint(&buf, 4, 1);
  expect(register_runner, &buf, NULL, TCI_OK, NULL);
  tci_wire_put_bytes(&buf, 4, TCI_STR("\x01\x80"));
  expect(register_runner, &buf, NULL, TCI_INVALID_ARGUMENT, "supported_modes[1]: is not a well-formed packed list");
}

static void an_int32_has_32_bits(void **state) {
  (void)state;
  tci_buf buf = {0};
  tci_wire_put_uint(&buf, 5, (uint64_t)(int64_t)-1);
  expect(register_runner, &buf, NULL, TCI_OK, NULL);
  tci_wire_put_uint(&buf, 5, UINT64_C(1) << 32);
  expect(register_runner, &buf, NULL, TCI_INVALID_ARGUMENT, "max_concurrent: does not fit an int32");
}

/* Lists in lists, written from the inside out in one buffer that is read backwards: 100,000 levels stay linear. */
static void nest_lists(tci_buf *buf, size_t levels) {
  size_t cap = levels * 12 + 16, start = cap;
  uint8_t *bytes = malloc(cap);
  for (size_t i = 0; i < levels * 2; i++) {
    tci_buf head = {0};
    tci_wire_put_varint(&head, (uint64_t)(i % 2 ? VALUE_LIST : 1) << 3 | TCI_WIRE_LEN);
    tci_wire_put_varint(&head, cap - start);
    start -= head.len;
    memcpy(bytes + start, head.ptr, head.len);
    tci_buf_deinit(&head);
  }
  tci_buf_add(buf, (tci_str){(char *)bytes + start, cap - start});
  free(bytes);
  wrap(buf, ENTRY_VALUE);
  wrap(buf, STRUCT_FIELDS);
  wrap(buf, OPTIONS);
  wrap(buf, CHECKS);
}

static void a_bomb_of_nested_values_is_refused(void **state) {
  (void)state;
  tci_buf buf = {0};
  nest_lists(&buf, 100000);
  expect(write_nodes, &buf, NULL, TCI_INVALID_ARGUMENT, "is nested deeper than 64 messages");
}

static void nesting_up_to_the_limit_passes(void **state) {
  (void)state;
  tci_limits limits = tci_limits_default();
  tci_buf buf = {0};
  nest_lists(&buf, 3); /* request, check, Struct, entry, value, then (list, value) three times */
  limits.message_depth_max = 11;
  expect(write_nodes, &buf, &limits, TCI_OK, NULL);
  nest_lists(&buf, 3);
  limits.message_depth_max = 10;
  expect(write_nodes, &buf, &limits, TCI_INVALID_ARGUMENT, "deeper than 10");
  nest_lists(&buf, 1000);
  limits.message_depth_max = 1000000; /* the scan's own stack ends before that */
  expect(write_nodes, &buf, &limits, TCI_INVALID_ARGUMENT, "deeper than 128");
}

static void a_bomb_of_tiny_messages_is_too_large(void **state) {
  (void)state;
  tci_buf buf = {0};
  for (int i = 0; i < 1000000; i++) tci_wire_put_bytes(&buf, STAGES, TCI_STR(""));
  expect(write_nodes, &buf, NULL, TCI_RESOURCE_EXHAUSTED, "message_arena_bytes_max");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_empty_message_passes),
      cmocka_unit_test(unknown_fields_are_skipped),
      cmocka_unit_test(malformed_bytes_are_refused),
      cmocka_unit_test(a_wrong_wire_type_is_refused),
      cmocka_unit_test(a_message_over_the_limit_is_too_large),
      cmocka_unit_test(the_path_names_every_level),
      cmocka_unit_test(ids_are_short_and_printable),
      cmocka_unit_test(texts_may_have_lines_but_no_nul),
      cmocka_unit_test(strings_are_utf8_everywhere),
      cmocka_unit_test(a_struct_may_hold_nul_and_long_texts),
      cmocka_unit_test(a_singular_field_stands_once),
      cmocka_unit_test(unknown_enum_values_are_named),
      cmocka_unit_test(lists_of_numbers_may_be_packed_or_not),
      cmocka_unit_test(an_int32_has_32_bits),
      cmocka_unit_test(a_bomb_of_nested_values_is_refused),
      cmocka_unit_test(nesting_up_to_the_limit_passes),
      cmocka_unit_test(a_bomb_of_tiny_messages_is_too_large),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
