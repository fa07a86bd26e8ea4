/* status: what went wrong, for whom, and what would be right.
 *
 * The codes are gRPC's numbers, so the wire map is the identity. `message` is borrowed: every function
 * that returns a status says in its header where the text lives (static, an arena, the object itself).
 */
#ifndef TCI_BASE_STATUS_H
#define TCI_BASE_STATUS_H

typedef enum {
  TCI_OK = 0,
  TCI_CANCELLED = 1,
  TCI_UNKNOWN = 2,
  TCI_INVALID_ARGUMENT = 3,
  TCI_DEADLINE_EXCEEDED = 4,
  TCI_NOT_FOUND = 5,
  TCI_ALREADY_EXISTS = 6,
  TCI_PERMISSION_DENIED = 7,
  TCI_RESOURCE_EXHAUSTED = 8,
  TCI_FAILED_PRECONDITION = 9,
  TCI_ABORTED = 10,
  TCI_OUT_OF_RANGE = 11,
  TCI_UNIMPLEMENTED = 12,
  TCI_INTERNAL = 13,
  TCI_UNAVAILABLE = 14,
  TCI_DATA_LOSS = 15,
  TCI_UNAUTHENTICATED = 16,
} tci_code;

#define TCI_MUST_USE __attribute__((warn_unused_result))

typedef struct {
  tci_code code;
  const char *message; /* NULL when code is TCI_OK */
} tci_status;

#define TCI_STATUS_OK ((tci_status){TCI_OK, 0})

/* Returns from the calling function when `expr` is not OK. The only macro that hides a return. */
#define TCI_TRY(expr)                                         \
  do {                                                        \
    tci_status tci_try_status = (expr);                       \
    if (tci_try_status.code != TCI_OK) return tci_try_status; \
  } while (0)

/* "INVALID_ARGUMENT" and so on; "CODE_?" for a number outside the table. Static. */
const char *tci_code_name(tci_code code);

#endif
