/* states: which moves are legal. The tables are drawn in states.c. */
#ifndef TCI_CORE_STATES_H
#define TCI_CORE_STATES_H

#include "core/types.h"

bool tci_check_may_move(tci_check_state from, tci_check_state to);
bool tci_stage_may_move(tci_stage_state from, tci_stage_state to);
bool tci_attempt_may_move(tci_attempt_state from, tci_attempt_state to);
bool tci_execution_may_move(tci_execution_state from, tci_execution_state to);

#endif
