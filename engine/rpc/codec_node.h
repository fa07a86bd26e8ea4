/* codec_node: the model as messages. Inside the codec only.
 *
 * Messages live in `arena` (which has no cap) and borrow encoded Structs from the model: pack them before it moves.
 */
#ifndef TCI_RPC_CODEC_NODE_H
#define TCI_RPC_CODEC_NODE_H

#include "core/model.h"
#include "tci/wire/v1/service.pb-c.h"

char *tci_codec_text(tci_arena *arena, tci_str s);
Google__Protobuf__Timestamp *tci_codec_time(tci_arena *arena, int64_t wall_us); /* 0 gives NULL: not set */
ProtobufCBinaryData tci_codec_struct(tci_str encoded);

Tci__Wire__V1__WorkPlan *tci_codec_plan(tci_arena *arena, const tci_plan *plan);
Tci__Wire__V1__Check *tci_codec_check(tci_arena *arena, const tci_check *check);
Tci__Wire__V1__Stage *tci_codec_stage(tci_arena *arena, const tci_stage *stage);
Tci__Wire__V1__StageExecution *tci_codec_execution(tci_arena *arena, const tci_attempt *attempt);
Tci__Wire__V1__StageRunnerInfo *tci_codec_runner(tci_arena *arena, const tci_runner *runner);

#endif
