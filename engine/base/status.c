/* status: the names of the codes, as they are shown in logs, by the CLI and in messages.
 *
 * Callers: everybody who shows a code to a human.
 */
#include "base/status.h"

const char *tci_code_name(tci_code code) {
  switch (code) {
    case TCI_OK: return "OK";
    case TCI_CANCELLED: return "CANCELLED";
    case TCI_UNKNOWN: return "UNKNOWN";
    case TCI_INVALID_ARGUMENT: return "INVALID_ARGUMENT";
    case TCI_DEADLINE_EXCEEDED: return "DEADLINE_EXCEEDED";
    case TCI_NOT_FOUND: return "NOT_FOUND";
    case TCI_ALREADY_EXISTS: return "ALREADY_EXISTS";
    case TCI_PERMISSION_DENIED: return "PERMISSION_DENIED";
    case TCI_RESOURCE_EXHAUSTED: return "RESOURCE_EXHAUSTED";
    case TCI_FAILED_PRECONDITION: return "FAILED_PRECONDITION";
    case TCI_ABORTED: return "ABORTED";
    case TCI_OUT_OF_RANGE: return "OUT_OF_RANGE";
    case TCI_UNIMPLEMENTED: return "UNIMPLEMENTED";
    case TCI_INTERNAL: return "INTERNAL";
    case TCI_UNAVAILABLE: return "UNAVAILABLE";
    case TCI_DATA_LOSS: return "DATA_LOSS";
    case TCI_UNAUTHENTICATED: return "UNAUTHENTICATED";
  }
  return "CODE_?"; /* a number some peer made up */
}
