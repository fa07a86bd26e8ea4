/* codec_read: what the readers of requests and answers share. Inside the codec only.
 *
 * A reader borrows everything but its scratch buffer. Every function that returns a status leaves the text in the
 * reader's arena (or static).
 */
#ifndef TCI_RPC_CODEC_READ_H
#define TCI_RPC_CODEC_READ_H

#include "core/event.h"
#include "core/limits.h"
#include "tci/wire/v1/service.pb-c.h"

typedef struct {
  const tci_limits *limits;
  tci_arena *arena;    /* its cap may be reached at any allocation */
  const char *message; /* short name, for texts */
  tci_buf scratch;
} tci_codec_reader;

/* A place in the message; a chain of them on the C stack becomes a path in a refusal. NULL: the message. */
typedef struct tci_codec_place {
  const struct tci_codec_place *up;
  const char *field;
  size_t index; /* SIZE_MAX: not repeated */
} tci_codec_place;

/* The two descriptions of one message: `guard` is turboci.v1's, `form` is the copy's with opaque Structs. */
typedef struct {
  const ProtobufCMessageDescriptor *guard, *form;
} tci_codec_message;

/* Scans, then unpacks into the reader's arena. */
TCI_MUST_USE tci_status tci_codec_unpack(tci_codec_reader *r, const tci_codec_message *message, tci_str bytes,
                                         ProtobufCMessage **out);

/* INVALID_ARGUMENT "<message>.<place>.<field>: <what>"; OUT_OF_RANGE for a field over its limit, which the codec tells no
 * one by that name. */
tci_status tci_codec_refuse(tci_codec_reader *r, const tci_codec_place *place, const char *field, const char *what);
/* The arena's cap was reached. */
tci_status tci_codec_full(tci_codec_reader *r);
/* n zeroed items, never NULL for n == 0; NULL: answer tci_codec_full. */
void *tci_codec_array(tci_codec_reader *r, size_t n, size_t item_bytes);

TCI_MUST_USE tci_status tci_codec_read_natural(tci_codec_reader *r, const tci_codec_place *place, const char *field,
                                               int64_t value, int64_t *out); /* refuses negative numbers */
TCI_MUST_USE tci_status tci_codec_read_struct(tci_codec_reader *r, const tci_codec_place *place, const char *field,
                                              ProtobufCBinaryData value, tci_str *out);
TCI_MUST_USE tci_status tci_codec_read_time(tci_codec_reader *r, const tci_codec_place *place, const char *field,
                                            const Google__Protobuf__Timestamp *value, int64_t *out);
TCI_MUST_USE tci_status tci_codec_read_failure(tci_codec_reader *r, const tci_codec_place *place, const char *field,
                                               const Tci__Wire__V1__Failure *value, tci_failure *out);
TCI_MUST_USE tci_status tci_codec_read_ids(tci_codec_reader *r, size_t n, char **values, tci_ids *out);

/* A map's entries in the order of arrival; protoc-c makes a type per map, so the caller collects them. */
typedef struct {
  tci_pair pair;
  size_t arrival;
} tci_codec_entry;
TCI_MUST_USE tci_status tci_codec_read_pairs(tci_codec_reader *r, const char *field, tci_codec_entry *entries, size_t n,
                                             tci_pairs *out);

/* RunResponse and CompleteStageExecutionRequest say the same things. */
TCI_MUST_USE tci_status tci_codec_read_completion(tci_codec_reader *r, Tci__Wire__V1__StageState stage_state, size_t n,
                                                  Tci__Wire__V1__CheckUpdate **updates,
                                                  const Tci__Wire__V1__Failure *failure, ProtobufCBinaryData details,
                                                  tci_completion *out);
/* A completion that says nothing but this failure. */
void tci_codec_failed_completion(tci_codec_reader *r, const char *message, tci_completion *out);
/* codec_write.c */
TCI_MUST_USE tci_status tci_codec_read_write_nodes(tci_codec_reader *r, const Tci__Wire__V1__WriteNodesRequest *m,
                                                   tci_command *out);

#endif
