/* sink: where the effects of a turn go. app/loop.c has one for gRPC, engine/lua one for the virtual world. */
#ifndef TCI_APP_SINK_H
#define TCI_APP_SINK_H

#include "base/status.h"
#include "core/types.h"

/* Bytes and texts are borrowed for the call. */
typedef struct {
  void *ctx;
  void (*reply)(void *ctx, uint64_t token, tci_status status, tci_str message);
  /* Call the runner: `method` is a path, `request` encoded. The answer comes back as an ANSWER event. */
  void (*dispatch)(void *ctx, tci_str execution_id, tci_mode mode, tci_str address, const char *method, tci_str request,
                   int64_t timeout_us);
  void (*cancel)(void *ctx, tci_str execution_id);
  /* One message of a stream. Returns false when it takes no more for now: tci_engine_stream_ready says when it does. */
  bool (*watch)(void *ctx, uint64_t token, uint64_t sequence, tci_str message);
  /* The stream (token 0: every one) ends with this status, behind what it was sent; at_once: what the sink still holds of it is
   * let go instead. */
  void (*watch_end)(void *ctx, uint64_t token, tci_status status, bool at_once);
} tci_sink;

#endif
