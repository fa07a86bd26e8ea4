/* codec_node: the model as messages (codec_node.c), what policies are and said (codec_policy.c). Inside the codec only.
 *
 * Messages live in `arena` (which has no cap) and borrow encoded Structs from the model: pack them before it moves.
 */
#ifndef TCI_RPC_CODEC_NODE_H
#define TCI_RPC_CODEC_NODE_H

#include "core/model.h"
#include "rpc/codec.h"
#include "tci/wire/v1/service.pb-c.h"

char *tci_codec_text(tci_arena *arena, tci_str s);
Google__Protobuf__Timestamp *tci_codec_time(tci_arena *arena, int64_t wall_us); /* 0 gives NULL: not set */
/* Sets a Struct of a message. It is always sent, an empty one too: programs read its entries without asking whether it is
 * there. TCI_CODEC_STRUCT(m, STAGE, ARGS, args, encoded) sets m->args of a Stage. */
#define TCI_CODEC_STRUCT(m, MESSAGE, FIELD, field, encoded)                         \
  ((m)->given_##field##_case = TCI__WIRE__V1__##MESSAGE##__GIVEN_##FIELD##_##FIELD, \
   (m)->field = tci_codec_struct(encoded))
ProtobufCBinaryData tci_codec_struct(tci_str encoded);

Tci__Wire__V1__WorkPlan *tci_codec_plan(tci_arena *arena, const tci_plan *plan);
Tci__Wire__V1__Check *tci_codec_check(tci_arena *arena, const tci_check *check);
Tci__Wire__V1__Stage *tci_codec_stage(tci_arena *arena, const tci_stage *stage);
Tci__Wire__V1__StageExecution *tci_codec_execution(tci_arena *arena, const tci_attempt *attempt);
Tci__Wire__V1__StageRunnerInfo *tci_codec_runner(tci_arena *arena, const tci_runner *runner);

/* While the message is over bytes_max the fattest of what may be left out goes, and its name is added to omitted_fields. */
void tci_codec_fit_check(tci_arena *arena, Tci__Wire__V1__Check *m, size_t bytes_max);
void tci_codec_fit_stage(tci_arena *arena, Tci__Wire__V1__Stage *m, size_t bytes_max);

/* Lists of messages and of strings live in `arena` too; their lengths are returned. */

/* The decisions on record of these attempts, in order; one that cannot be decoded is left out. */
size_t tci_codec_decisions(tci_arena *arena, const tci_attempt *const *attempts, size_t attempts_len,
                           Tci__Wire__V1__PolicyDecision ***out);
size_t tci_codec_names(tci_arena *arena, tci_ids names, char ***out);
size_t tci_codec_encoded_names(tci_arena *arena, tci_str encoded, char ***out); /* tci_ids_encode; malformed: none */
Tci__Wire__V1__Explanation *tci_codec_explanation(tci_arena *arena, const tci_explanation *explanation);
Tci__Wire__V1__PolicyInfo *tci_codec_policy(tci_arena *arena, const tci_policy_info *policy);

#endif
