/* states: the four state machines as tables. core/evolve.c moves states and asks here; nothing else does both.
 *
 * Rows and columns are state/10, so that the wire's numbers index the tables. A move to the same state is no move and
 * is not asked for. Row 0 is birth: the states a thing may be created in.
 */
#include "core/states.h"

enum { STATES = 7 };

/*  check      ┌──────────────────────────────────────────┐
 *             │            ┌─────────────────────────────┤
 *   (new) → PLANNING → PLANNED → WAITING ─────────────→ FINAL
 */
static const bool check_moves[STATES][STATES] = {
    /*                -  PLANNING PLANNED WAITING FINAL */
    /* new */ {0, 1, 1, 0, 0},
    /* PLANNING */ {0, 0, 1, 0, 1},
    /* PLANNED */ {0, 0, 0, 1, 1},
    /* WAITING */ {0, 0, 0, 0, 1},
};

/*  stage      ┌────────────────────────────────────────┐
 *   (new) → PLANNED → ATTEMPTING → AWAITING_GROUP → FINAL
 *                         └──────────────────────────↗
 */
static const bool stage_moves[STATES][STATES] = {
    /*                      -  PLANNED ATTEMPTING AWAITING FINAL */
    /* new */ {0, 1, 0, 0, 0},
    /* PLANNED */ {0, 0, 1, 0, 1},
    /* ATTEMPTING */ {0, 0, 0, 1, 1},
    /* AWAITING_GROUP */ {0, 0, 0, 0, 1},
};

/*  attempt    ┌─────────────────────┐
 *   (new) → PENDING → SCHEDULED → RUNNING → COMPLETE
 *               └─────────┴──────────┴────→ INCOMPLETE
 */
static const bool attempt_moves[STATES][STATES] = {
    /*                 -  PENDING SCHEDULED RUNNING COMPLETE INCOMPLETE */
    /* new */ {0, 1, 0, 0, 0, 0},
    /* PENDING */ {0, 0, 1, 1, 0, 1},
    /* SCHEDULED */ {0, 0, 0, 1, 0, 1},
    /* RUNNING */ {0, 0, 0, 0, 1, 1},
};

/*  execution
 *   (new) → PENDING → DISPATCHED → RUNNING → COMPLETE
 *               └──────────┴──────────┴────→ FAILED, CANCELLED
 */
static const bool execution_moves[STATES][STATES] = {
    /*                  -  PENDING DISPATCHED RUNNING COMPLETE FAILED CANCELLED */
    /* new */ {0, 1, 0, 0, 0, 0, 0},
    /* PENDING */ {0, 0, 1, 0, 0, 1, 1},
    /* DISPATCHED */ {0, 0, 0, 1, 0, 1, 1},
    /* RUNNING */ {0, 0, 0, 0, 1, 1, 1},
};

static bool may_move(const bool table[STATES][STATES], int from, int to) {
  if (from < 0 || to < 0 || from % 10 || to % 10 || from / 10 >= STATES || to / 10 >= STATES) return false;
  return table[from / 10][to / 10];
}

bool tci_check_may_move(tci_check_state from, tci_check_state to) { return may_move(check_moves, (int)from, (int)to); }
bool tci_stage_may_move(tci_stage_state from, tci_stage_state to) { return may_move(stage_moves, (int)from, (int)to); }
bool tci_attempt_may_move(tci_attempt_state from, tci_attempt_state to) {
  return may_move(attempt_moves, (int)from, (int)to);
}
bool tci_execution_may_move(tci_execution_state from, tci_execution_state to) {
  return may_move(execution_moves, (int)from, (int)to);
}
