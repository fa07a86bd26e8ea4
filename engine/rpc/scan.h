/* scan: the guard at the door. Reads a message by its true descriptor, without unpacking it, and refuses what must
 * never reach protobuf-c (it has no bounds of its own) or the core. Called by the codec; pure.
 */
#ifndef TCI_RPC_SCAN_H
#define TCI_RPC_SCAN_H

#include <protobuf-c/protobuf-c.h>

#include "base/status.h"
#include "core/limits.h"

/* Checks `bytes` as a `message` of package turboci.v1. OK promises:
 *
 * 1. well-formed: no groups, every known field has its wire type, no singular field stands twice;
 * 2. at most message_bytes_max long, message_depth_max (and never over 128) deep, and its sub-messages take at most
 *    message_arena_bytes_max once unpacked;
 * 3. strings are UTF-8; outside google.protobuf.Struct also free of NUL and at most text_bytes_max long; ids are free
 *    of control characters and at most id_bytes_max long;
 * 4. enum values are known, and int32 values fit.
 *
 * Unknown fields are skipped: a newer client may send them. RESOURCE_EXHAUSTED for sizes of the whole message (the text names
 * its largest field), OUT_OF_RANGE for a text over text_bytes_max, else INVALID_ARGUMENT; the text (in `arena`, or static when its cap is reached) begins with message and field path:
 * "WriteNodesRequest.stages[2].id: ...". */
TCI_MUST_USE tci_status tci_scan(const ProtobufCMessageDescriptor *message, tci_str bytes, const tci_limits *limits,
                                 tci_arena *arena);

#endif
