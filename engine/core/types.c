/* types: names for people. */
#include "core/types.h"

static const char *name_of(const char *const *names, size_t len, int state, int step) {
  if (state < 0 || state % step || (size_t)(state / step) >= len) return "?";
  return names[state / step];
}

#define NAMES(function, step, ...)                                        \
  const char *function(int state) {                                       \
    static const char *const names[] = {__VA_ARGS__};                     \
    return name_of(names, sizeof names / sizeof names[0], state, (step)); \
  }

NAMES(tci_check_state_name, 10, "UNKNOWN", "PLANNING", "PLANNED", "WAITING", "FINAL")
NAMES(tci_stage_state_name, 10, "UNKNOWN", "PLANNED", "ATTEMPTING", "AWAITING_GROUP", "FINAL")
NAMES(tci_attempt_state_name, 10, "UNKNOWN", "PENDING", "SCHEDULED", "RUNNING", "COMPLETE", "INCOMPLETE")
NAMES(tci_execution_state_name, 10, "UNKNOWN", "PENDING", "DISPATCHED", "RUNNING", "COMPLETE", "FAILED", "CANCELLED")
NAMES(tci_node_kind_name, 1, "node", "check", "stage")
NAMES(tci_failure_kind_name, 1, "UNKNOWN", "REPORTED", "REJECTED", "UNREACHABLE", "TIMEOUT", "STALE", "RUNNER_LOST",
      "ENGINE_RESTART", "PROTOCOL", "CANCELLED", "POLICY")
NAMES(tci_outcome_name, 1, "UNKNOWN", "SUCCEEDED", "FAILED", "CANCELLED", "SKIPPED")
