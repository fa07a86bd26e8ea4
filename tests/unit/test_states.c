/* states: the moves of the contract, all of them and no other. */
#include "core/states.h"

#include "core_test.h"

typedef struct {
  int from;
  const int to[5]; /* up to the first 0 */
} row;

/* Every pair of numbers from -10 to 80, and odd ones: legal exactly when a row says so. */
static void moves_are(bool (*may)(int, int), const row *rows, size_t len) {
  for (int from = -10; from <= 80; from += 5)
    for (int to = -10; to <= 80; to += 5) {
      bool legal = false;
      for (size_t i = 0; i < len; i++)
        for (int k = 0; k < 5 && rows[i].to[k]; k++) legal |= rows[i].from == from && rows[i].to[k] == to;
      if (may(from, to) != legal) fail_msg("%d -> %d should be %s", from, to, legal ? "legal" : "illegal");
    }
}

static bool check_may(int a, int b) { return tci_check_may_move((tci_check_state)a, (tci_check_state)b); }
static bool stage_may(int a, int b) { return tci_stage_may_move((tci_stage_state)a, (tci_stage_state)b); }
static bool attempt_may(int a, int b) { return tci_attempt_may_move((tci_attempt_state)a, (tci_attempt_state)b); }
static bool execution_may(int a, int b) {
  return tci_execution_may_move((tci_execution_state)a, (tci_execution_state)b);
}

static void checks_move_forward_by_one_or_straight_to_final(void **state) {
  (void)state;
  static const row rows[] = {{0, {10, 20}}, {10, {20, 40}}, {20, {30, 40}}, {30, {40}}};
  moves_are(check_may, rows, 4);
}

static void stages_move_along_their_table(void **state) {
  (void)state;
  static const row rows[] = {{0, {10}}, {10, {20, 40}}, {20, {30, 40}}, {30, {40}}};
  moves_are(stage_may, rows, 4);
}

static void attempts_move_along_their_table(void **state) {
  (void)state;
  static const row rows[] = {{0, {10}}, {10, {20, 30, 50}}, {20, {30, 50}}, {30, {40, 50}}};
  moves_are(attempt_may, rows, 4);
}

static void executions_move_forward_only(void **state) {
  (void)state;
  static const row rows[] = {{0, {10}}, {10, {20, 50, 60}}, {20, {30, 50, 60}}, {30, {40, 50, 60}}};
  moves_are(execution_may, rows, 4);
}

static void names_are_the_wires_and_a_stranger_is_a_question_mark(void **state) {
  (void)state;
  assert_string_equal(tci_check_state_name(TCI_CHECK_WAITING), "WAITING");
  assert_string_equal(tci_stage_state_name(TCI_STAGE_AWAITING_GROUP), "AWAITING_GROUP");
  assert_string_equal(tci_attempt_state_name(TCI_ATTEMPT_INCOMPLETE), "INCOMPLETE");
  assert_string_equal(tci_execution_state_name(TCI_EXECUTION_CANCELLED), "CANCELLED");
  assert_string_equal(tci_node_kind_name(TCI_NODE_STAGE), "stage");
  assert_string_equal(tci_failure_kind_name(TCI_FAILURE_POLICY), "POLICY");
  assert_string_equal(tci_outcome_name(TCI_OUTCOME_SKIPPED), "SKIPPED");
  assert_string_equal(tci_check_state_name(50), "?");
  assert_string_equal(tci_check_state_name(-10), "?");
  assert_string_equal(tci_check_state_name(15), "?");
  assert_string_equal(tci_outcome_name(5), "?");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(checks_move_forward_by_one_or_straight_to_final),
      CLAIM(stages_move_along_their_table),
      CLAIM(attempts_move_along_their_table),
      CLAIM(executions_move_forward_only),
      CLAIM(names_are_the_wires_and_a_stranger_is_a_question_mark),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
