/* codec_page: see codec_page.h, and tci_codec_reply_part in codec.h. Called by codec.c and app/reads.c.
 *
 * 1. A part holds as many entries as fit, in order, and at least one, if the list has one: so that every part gets on.
 * 2. Sizes are measured on the messages themselves, before anything is packed.
 */
#include "rpc/codec_page.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/rng.h"
#include "base/wire.h"
#include "rpc/codec.h"
#include "rpc/codec_node.h"

/* ---- tokens ---- */

static void put_ids(tci_buf *buf, uint32_t number, const tci_ids *ids) {
  tci_wire_put_uint(buf, number, ids->len);
  for (size_t i = 0; i < ids->len; i++) tci_wire_put_bytes(buf, number, ids->items[i]);
}

static uint64_t check_of(const tci_command *c, uint64_t from) {
  tci_buf buf = {0};
  tci_wire_put_uint(&buf, 1, c->kind);
  tci_wire_put_uint(&buf, 2, from);
  tci_wire_put_bytes(&buf, 3, c->plan_id);
  if (c->kind == TCI_COMMAND_QUERY_NODES) {
    tci_wire_put_uint(&buf, 4, (uint64_t)c->query_nodes.include_checks << 1 | c->query_nodes.include_stages);
    tci_wire_put_uint(&buf, 5, c->query_nodes.check_states);
    tci_wire_put_uint(&buf, 6, c->query_nodes.stage_states);
    put_ids(&buf, 7, &c->query_nodes.check_ids);
    put_ids(&buf, 8, &c->query_nodes.stage_ids);
  } else {
    tci_wire_put_uint(&buf, 4, c->list_executions.states);
    tci_wire_put_bytes(&buf, 5, c->list_executions.stage_id);
  }
  uint64_t check = tci_siphash(UINT64_C(0x7475726263692d70), UINT64_C(0x6167652d746f6b65), tci_buf_str(&buf));
  tci_buf_deinit(&buf);
  return check;
}

void tci_codec_page_seal(const tci_command *command, uint64_t from, char out[TCI_PAGE_TOKEN_BYTES + 1]) {
  snprintf(out, TCI_PAGE_TOKEN_BYTES + 1, "%016" PRIx64 "%016" PRIx64, from, check_of(command, from));
}

bool tci_codec_page_open(tci_str token, tci_command *command) {
  uint64_t from = 0;
  if (token.len != TCI_PAGE_TOKEN_BYTES) return false;
  for (size_t i = 0; i < TCI_PAGE_TOKEN_BYTES / 2; i++) {
    const char *digit = memchr("0123456789abcdef", token.ptr[i], 16);
    if (!digit) return false;
    from = from << 4 | (uint64_t)(digit - "0123456789abcdef");
  }
  char sealed[TCI_PAGE_TOKEN_BYTES + 1];
  tci_codec_page_seal(command, from, sealed);
  command->page.from = from;
  return memcmp(sealed, token.ptr, TCI_PAGE_TOKEN_BYTES) == 0;
}

/* ---- entries that are too large ---- */

/* A field that may be left out, and what it takes. Results and attempts go in two steps: first what is large in each of
 * them, then all of them. */
typedef struct {
  const char *name;
  size_t bytes;
} fat;

static const fat *fattest(const fat *fields, size_t len) {
  const fat *most = &fields[0];
  for (size_t i = 1; i < len; i++)
    if (fields[i].bytes > most->bytes) most = &fields[i];
  return most->bytes ? most : NULL;
}

static size_t group_bytes(const Tci__Wire__V1__DependencyGroup *group) {
  return group ? protobuf_c_message_get_packed_size(&group->base) : 0;
}

/* Room for `more` names behind those that are there. */
static char **more_names(tci_arena *arena, char **names, size_t len, size_t more) {
  char **room = tci_arena_array(arena, char *, len + more);
  if (len) memcpy(room, names, len * sizeof *names);
  return room;
}

static void leave_out(char ***names, size_t *len, const char *name) { (*names)[(*len)++] = (char *)name; }

void tci_codec_fit_check(tci_arena *arena, Tci__Wire__V1__Check *m, size_t bytes_max) {
  enum { FIELDS = 4 };
  m->omitted_fields = more_names(arena, m->omitted_fields, m->n_omitted_fields, FIELDS);
  while (protobuf_c_message_get_packed_size(&m->base) > bytes_max) {
    size_t data = 0, results = 0;
    for (size_t i = 0; i < m->n_results; i++) {
      data += m->results[i]->data.len;
      results += protobuf_c_message_get_packed_size(&m->results[i]->base);
    }
    const fat fields[FIELDS] = {{"options", m->options.len},
                                {"results.data", data},
                                {"results", results - data},
                                {"dependencies", group_bytes(m->dependencies)}};
    const fat *most = fattest(fields, FIELDS);
    if (!most) return;
    leave_out(&m->omitted_fields, &m->n_omitted_fields, most->name);
    if (most == &fields[0]) m->options.len = 0;
    if (most == &fields[1])
      for (size_t i = 0; i < m->n_results; i++) m->results[i]->data.len = 0;
    if (most == &fields[2]) m->n_results = 0;
    if (most == &fields[3]) m->dependencies = NULL;
  }
}

static size_t assignments_bytes(const Tci__Wire__V1__Stage *m) {
  size_t bytes = 0;
  for (size_t i = 0; i < m->n_assignments; i++) bytes += protobuf_c_message_get_packed_size(&m->assignments[i]->base);
  return bytes;
}

static size_t progress_bytes(const Tci__Wire__V1__Attempt *a) {
  size_t bytes = 0;
  for (size_t i = 0; i < a->n_progress; i++) bytes += protobuf_c_message_get_packed_size(&a->progress[i]->base);
  return bytes;
}

void tci_codec_fit_stage(tci_arena *arena, Tci__Wire__V1__Stage *m, size_t bytes_max) {
  enum { FIELDS = 6 };
  m->omitted_fields = more_names(arena, m->omitted_fields, m->n_omitted_fields, FIELDS);
  while (protobuf_c_message_get_packed_size(&m->base) > bytes_max) {
    size_t details = 0, progress = 0, attempts = 0;
    for (size_t i = 0; i < m->n_attempts; i++) {
      details += m->attempts[i]->details.len;
      progress += progress_bytes(m->attempts[i]);
      attempts += protobuf_c_message_get_packed_size(&m->attempts[i]->base);
    }
    size_t rest = attempts > details + progress ? attempts - details - progress : 0;
    const fat fields[FIELDS] = {
        {"args", m->args.len}, {"attempts.details", details},         {"attempts.progress", progress},
        {"attempts", rest},    {"assignments", assignments_bytes(m)}, {"dependencies", group_bytes(m->dependencies)}};
    const fat *most = fattest(fields, FIELDS);
    if (!most) return;
    leave_out(&m->omitted_fields, &m->n_omitted_fields, most->name);
    if (most == &fields[0]) m->args.len = 0;
    for (size_t i = 0; i < m->n_attempts; i++) {
      if (most == &fields[1]) m->attempts[i]->details.len = 0;
      if (most == &fields[2]) m->attempts[i]->n_progress = 0;
    }
    if (most == &fields[3]) m->n_attempts = 0;
    if (most == &fields[4]) m->n_assignments = 0;
    if (most == &fields[5]) m->dependencies = NULL;
  }
}

/* ---- parts ---- */

enum { FRAME_BYTES_MAX = 6 /* of an entry in its list: tag and length */, TOKEN_BYTES = TCI_PAGE_TOKEN_BYTES + 4 };

typedef struct {
  const tci_reply *reply;
  bool paged;
  size_t bytes_max, enough, taken;
  tci_arena messages;
} part;

static const tci_status too_large = {TCI_RESOURCE_EXHAUSTED, "an entry of the list is too large for a reply by itself"};

/* Is there room for so many bytes more? */
static bool takes(part *p, size_t bytes) {
  if (p->taken + bytes > p->bytes_max || (p->taken && p->taken >= p->enough)) return false;
  p->taken += bytes;
  return true;
}

/* Checks and stages are in order of creation each; together they are cut where the first one does not fit. */
static tci_status put_nodes(part *p, Tci__Wire__V1__QueryNodesResponse *m, uint64_t *next) {
  const tci_reply *r = p->reply;
  size_t room = p->bytes_max - FRAME_BYTES_MAX;
  m->checks = tci_arena_array(&p->messages, Tci__Wire__V1__Check *, r->checks_len);
  m->stages = tci_arena_array(&p->messages, Tci__Wire__V1__Stage *, r->stages_len);
  *next = r->next;
  while (m->n_checks < r->checks_len || m->n_stages < r->stages_len) {
    const tci_check *check = m->n_checks < r->checks_len ? r->checks[m->n_checks] : NULL;
    const tci_stage *stage = m->n_stages < r->stages_len ? r->stages[m->n_stages] : NULL;
    bool is_check = check && (!stage || check->node.index < stage->node.index);
    const tci_node *node = is_check ? &check->node : &stage->node;
    const ProtobufCMessage *message;
    if (is_check) {
      Tci__Wire__V1__Check *c = m->checks[m->n_checks] = tci_codec_check(&p->messages, check);
      if (p->paged) tci_codec_fit_check(&p->messages, c, room);
      message = &c->base;
    } else {
      Tci__Wire__V1__Stage *s = m->stages[m->n_stages] = tci_codec_stage(&p->messages, stage);
      if (p->paged) tci_codec_fit_stage(&p->messages, s, room);
      message = &s->base;
    }
    size_t bytes = protobuf_c_message_get_packed_size(message) + FRAME_BYTES_MAX;
    if (!takes(p, bytes)) {
      *next = node->index;
      return p->taken ? TCI_STATUS_OK : too_large;
    }
    if (is_check)
      m->n_checks++;
    else
      m->n_stages++;
  }
  return TCI_STATUS_OK;
}

static tci_status put_executions(part *p, Tci__Wire__V1__ListStageExecutionsResponse *m, uint64_t *next) {
  const tci_reply *r = p->reply;
  m->executions = tci_arena_array(&p->messages, Tci__Wire__V1__StageExecution *, r->attempts_len);
  *next = r->next;
  for (size_t i = 0; i < r->attempts_len; i++) {
    const tci_attempt *a = r->attempts[i];
    m->executions[i] = tci_codec_execution(&p->messages, a);
    size_t bytes = protobuf_c_message_get_packed_size(&m->executions[i]->base) + FRAME_BYTES_MAX;
    if (!takes(p, bytes)) {
      *next = tci_execution_position(a);
      return p->taken ? TCI_STATUS_OK : too_large;
    }
    m->n_executions++;
  }
  return TCI_STATUS_OK;
}

static void pack(const ProtobufCMessage *message, tci_buf *out) {
  char *room = tci_buf_reserve(out, protobuf_c_message_get_packed_size(message));
  out->len += protobuf_c_message_pack(message, (uint8_t *)room);
}

tci_status tci_codec_reply_part(const tci_reply *reply, const tci_command *command, bool paged, size_t bytes_max,
                                size_t enough, tci_buf *out, uint64_t *next) {
  part p = {.reply = reply, .paged = paged, .bytes_max = bytes_max, .enough = enough};
  if (paged) p.bytes_max = bytes_max > TOKEN_BYTES + FRAME_BYTES_MAX ? bytes_max - TOKEN_BYTES : FRAME_BYTES_MAX;
  char token[TCI_PAGE_TOKEN_BYTES + 1] = "";
  tci_status status;
  if (reply->kind == TCI_REPLY_NODES) {
    Tci__Wire__V1__QueryNodesResponse m = TCI__WIRE__V1__QUERY_NODES_RESPONSE__INIT;
    status = put_nodes(&p, &m, next);
    if (paged && *next) tci_codec_page_seal(command, *next, token);
    m.next_page_token = token;
    if (status.code == TCI_OK) pack(&m.base, out);
  } else {
    tci_assert(reply->kind == TCI_REPLY_EXECUTIONS);
    Tci__Wire__V1__ListStageExecutionsResponse m = TCI__WIRE__V1__LIST_STAGE_EXECUTIONS_RESPONSE__INIT;
    status = put_executions(&p, &m, next);
    if (paged && *next) tci_codec_page_seal(command, *next, token);
    m.next_page_token = token;
    if (status.code == TCI_OK) pack(&m.base, out);
  }
  tci_arena_deinit(&p.messages);
  return status;
}
