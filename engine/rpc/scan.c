/* scan: see scan.h for what is promised. One pass over the bytes with a stack of its own, so that no message can
 * choose how deep the C stack grows; nothing is allocated unless a message is refused.
 *
 * 1. frames[0] is the message itself; frames[i] is a message field of frames[i - 1], which has read past it.
 * 2. A frame's `seen` has one bit per singular field: messages of our package have at most 64 fields.
 * 3. Inside a Struct names and texts are the user's data: only UTF-8 is asked for, there.
 */
#include "rpc/scan.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/wire.h"
#include "google/protobuf/struct.pb-c.h"

enum { DEPTH_MAX = 128, FIELDS_MAX = 64, PATH_BYTES_MAX = 400 };

typedef struct {
  const ProtobufCMessageDescriptor *message;
  const ProtobufCFieldDescriptor *field; /* of the frame below: how we came here; NULL for the first */
  const uint8_t *start;
  tci_wire_reader reader;
  uint64_t seen;
  bool in_struct;
} frame;

typedef struct {
  frame frames[DEPTH_MAX];
  size_t depth, depth_max;
  size_t unpacked_bytes;
  const tci_limits *limits;
  tci_arena *arena;
} scan;

typedef ProtobufCFieldDescriptor field_desc;

static tci_status field_check(scan *s, frame *top, const field_desc *field, const tci_wire_field *f);
static tci_status packed_check(scan *s, const field_desc *field, tci_str bytes);
static tci_status number_check(scan *s, const field_desc *field, uint64_t value, size_t packed_index);
static tci_status string_check(scan *s, const frame *top, const field_desc *field, tci_str text);
static tci_status push(scan *s, const field_desc *field, tci_str bytes);
static tci_wire_type wire_type(ProtobufCType type);
static bool is_id(const char *name);
static tci_status refuse(scan *s, const field_desc *field, size_t packed_index, const char *what);
static tci_status refuse_whole(const ProtobufCMessageDescriptor *message, tci_str bytes, const tci_limits *limits,
                               tci_arena *arena);

tci_status tci_scan(const ProtobufCMessageDescriptor *message, tci_str bytes, const tci_limits *limits,
                    tci_arena *arena) {
  if (bytes.len > (uint64_t)limits->message_bytes_max) return refuse_whole(message, bytes, limits, arena);
  scan s; /* not zeroed: the frames are 8 KiB, and most messages use few */
  s.depth = 1;
  s.depth_max = limits->message_depth_max < DEPTH_MAX ? (size_t)limits->message_depth_max : DEPTH_MAX;
  s.unpacked_bytes = message->sizeof_message;
  s.limits = limits;
  s.arena = arena;
  if (!bytes.len) bytes.ptr = ""; /* the reader computes with it */
  tci_wire_reader reader = tci_wire_read(bytes);
  s.frames[0] = (frame){.message = message, .start = reader.at, .reader = reader};
  while (s.depth > 0) {
    frame *top = &s.frames[s.depth - 1];
    tci_wire_field f;
    if (!tci_wire_next(&top->reader, &f)) {
      if (top->reader.at != top->reader.end) return refuse(&s, NULL, 0, "is not a well-formed protobuf message");
      s.depth--;
      continue;
    }
    const field_desc *field = protobuf_c_message_descriptor_get_field(top->message, f.number);
    if (field) TCI_TRY(field_check(&s, top, field, &f));
  }
  return TCI_STATUS_OK;
}

static tci_status field_check(scan *s, frame *top, const field_desc *field, const tci_wire_field *f) {
  tci_wire_type expected = wire_type(field->type);
  bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED;
  if (repeated && expected != TCI_WIRE_LEN && f->type == TCI_WIRE_LEN) return packed_check(s, field, f->bytes);
  if (f->type != expected) return refuse(s, field, 0, "has the wrong wire type");
  if (!repeated) {
    size_t index = (size_t)(field - top->message->fields);
    tci_assert(index < FIELDS_MAX);
    if (top->seen >> index & 1) return refuse(s, field, 0, "is given twice");
    top->seen |= UINT64_C(1) << index;
  }
  switch (field->type) {
    case PROTOBUF_C_TYPE_STRING: return string_check(s, top, field, f->bytes);
    case PROTOBUF_C_TYPE_MESSAGE: return push(s, field, f->bytes);
    default: return number_check(s, field, f->value, 0);
  }
}

static tci_status packed_check(scan *s, const field_desc *field, tci_str bytes) {
  tci_wire_type type = wire_type(field->type);
  if (type != TCI_WIRE_VARINT) {
    size_t width = type == TCI_WIRE_I64 ? 8 : 4;
    return bytes.len % width ? refuse(s, field, 0, "is not a well-formed packed list") : TCI_STATUS_OK;
  }
  tci_wire_reader reader = tci_wire_read(bytes);
  for (size_t i = 0; reader.at != reader.end; i++) {
    uint64_t value;
    if (!tci_wire_varint(&reader, &value)) return refuse(s, field, i, "is not a well-formed packed list");
    TCI_TRY(number_check(s, field, value, i));
  }
  return TCI_STATUS_OK;
}

static tci_status number_check(scan *s, const field_desc *field, uint64_t value, size_t packed_index) {
  bool fits = value == (uint64_t)(int64_t)(int32_t)value;
  if (field->type == PROTOBUF_C_TYPE_INT32 && !fits) return refuse(s, field, packed_index, "does not fit an int32");
  if (field->type == PROTOBUF_C_TYPE_ENUM &&
      (!fits || !protobuf_c_enum_descriptor_get_value(field->descriptor, (int32_t)value)))
    return refuse(s, field, packed_index,
                  tci_fmt(s->arena, "%" PRId64 " is not a known %s", (int64_t)value,
                          ((const ProtobufCEnumDescriptor *)field->descriptor)->short_name));
  return TCI_STATUS_OK;
}

/* C0, DEL, and C1 (U+0080 to U+009F, in UTF-8 two bytes). */
static bool is_control(const uint8_t *at, size_t left) {
  return at[0] < 0x20 || at[0] == 0x7f || (at[0] == 0xc2 && left > 1 && at[1] >= 0x80 && at[1] <= 0x9f);
}

static tci_status string_check(scan *s, const frame *top, const field_desc *field, tci_str text) {
  if (!top->in_struct) {
    bool id = is_id(field->name);
    int64_t bytes_max = id ? s->limits->id_bytes_max : s->limits->text_bytes_max;
    if (text.len > (uint64_t)bytes_max) {
      tci_status status = refuse(s, field, 0,
                                 tci_fmt(s->arena, "is %zu bytes long; at most %" PRId64 " are allowed (%s)", text.len,
                                         bytes_max, id ? "id_bytes_max" : "text_bytes_max"));
      return (tci_status){id ? status.code : TCI_OUT_OF_RANGE, status.message}; /* so long an id is no id */
    }
    if (text.len && memchr(text.ptr, 0, text.len)) return refuse(s, field, 0, "holds a NUL character");
    for (size_t i = 0; id && i < text.len; i++)
      if (is_control((const uint8_t *)text.ptr + i, text.len - i))
        return refuse(s, field, 0, "holds a control character; an id has none");
  }
  return tci_str_is_utf8(text) ? TCI_STATUS_OK : refuse(s, field, 0, "is not valid UTF-8");
}

/* The message of `field` is next; when it ends, reading goes on behind it. */
static tci_status push(scan *s, const field_desc *field, tci_str bytes) {
  const ProtobufCMessageDescriptor *message = field->descriptor;
  if (s->depth >= s->depth_max)
    return refuse(s, field, 0,
                  tci_fmt(s->arena, "is nested deeper than %zu messages (message_depth_max)", s->depth_max));
  /* Two bytes on the wire become a struct and a pointer to it in memory. */
  s->unpacked_bytes += message->sizeof_message + sizeof(void *);
  if (s->unpacked_bytes > (uint64_t)s->limits->message_arena_bytes_max)
    return (tci_status){
        TCI_RESOURCE_EXHAUSTED,
        tci_fmt(s->arena, "%s: would take more than %" PRId64 " bytes unpacked (message_arena_bytes_max)",
                s->frames[0].message->short_name, s->limits->message_arena_bytes_max)};
  const frame *top = &s->frames[s->depth - 1];
  tci_wire_reader reader = tci_wire_read(bytes);
  s->frames[s->depth] = (frame){
      .message = message,
      .field = field,
      .start = reader.at,
      .reader = reader,
      .in_struct = top->in_struct || message == &google__protobuf__struct__descriptor,
  };
  s->depth++;
  return TCI_STATUS_OK;
}

static tci_wire_type wire_type(ProtobufCType type) {
  switch (type) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE: return TCI_WIRE_LEN;
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE: return TCI_WIRE_I64;
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FLOAT: return TCI_WIRE_I32;
    default: return TCI_WIRE_VARINT;
  }
}

static bool ends_with(const char *text, const char *end) {
  size_t a = strlen(text), b = strlen(end);
  return a >= b && memcmp(text + a - b, end, b) == 0;
}

static bool is_id(const char *name) {
  return strcmp(name, "id") == 0 || strcmp(name, "runner_type") == 0 || strcmp(name, "policy") == 0 ||
         ends_with(name, "_id") || ends_with(name, "_ids") || ends_with(name, "_id_filter");
}

/* ---- refusing: only here time is spent on words ---- */

/* How many fields of this number `holder` has read, the one at hand included. */
static size_t occurrences(const frame *holder, uint32_t number) {
  tci_wire_reader reader = {holder->start, holder->reader.at};
  tci_wire_field f;
  size_t count = 0;
  while (tci_wire_next(&reader, &f)) count += f.number == number;
  return count;
}

static size_t path_add(char *path, size_t used, const frame *holder, const field_desc *field, size_t packed_index) {
  if (used >= PATH_BYTES_MAX - 1) return used;
  int bytes = field->label == PROTOBUF_C_LABEL_REPEATED
                  ? snprintf(path + used, PATH_BYTES_MAX - used, ".%s[%zu]", field->name,
                             occurrences(holder, field->id) - 1 + packed_index)
                  : snprintf(path + used, PATH_BYTES_MAX - used, ".%s", field->name);
  used += (size_t)bytes;
  return used < PATH_BYTES_MAX ? used : PATH_BYTES_MAX - 1;
}

/* `field` is of the message on top; NULL: that message itself. */
static tci_status refuse(scan *s, const field_desc *field, size_t packed_index, const char *what) {
  char path[PATH_BYTES_MAX] = "";
  size_t used = 0;
  for (size_t i = 1; i < s->depth; i++) used = path_add(path, used, &s->frames[i - 1], s->frames[i].field, 0);
  if (field) used = path_add(path, used, &s->frames[s->depth - 1], field, packed_index);
  const char *cut = used == PATH_BYTES_MAX - 1 ? "..." : "";
  return (tci_status){TCI_INVALID_ARGUMENT,
                      tci_fmt(s->arena, "%s%s%s: %s", s->frames[0].message->short_name, path, cut, what)};
}

/* The longest known field of a message that has a length. NULL: it has none. Looks at so many fields and no more: it is for
 * the text alone, and the message is not to be trusted. */
static const field_desc *largest_field(const ProtobufCMessageDescriptor *message, tci_str bytes, tci_str *value,
                                       size_t *index) {
  enum { LOOKS_MAX = 100000 };
  const field_desc *largest = NULL;
  size_t seen[FIELDS_MAX] = {0};
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field f;
  for (int i = 0; i < LOOKS_MAX && tci_wire_next(&reader, &f); i++) {
    const field_desc *field = protobuf_c_message_descriptor_get_field(message, f.number);
    if (!field || f.type != TCI_WIRE_LEN) continue;
    size_t nth = seen[field - message->fields]++;
    if (largest && f.bytes.len <= value->len) continue;
    largest = field;
    *value = f.bytes;
    *index = nth;
  }
  return largest;
}

/* The message is too long: where its bytes are is what its sender wants to know. */
static tci_status refuse_whole(const ProtobufCMessageDescriptor *message, tci_str bytes, const tci_limits *limits,
                               tci_arena *arena) {
  char path[PATH_BYTES_MAX] = "";
  size_t used = 0, index;
  const ProtobufCMessageDescriptor *at = message;
  tci_str value = bytes, inner;
  while (at && at != &google__protobuf__struct__descriptor && used < PATH_BYTES_MAX - 1) {
    const field_desc *field = largest_field(at, value, &inner, &index);
    if (!field) break;
    int n = field->label == PROTOBUF_C_LABEL_REPEATED
                ? snprintf(path + used, PATH_BYTES_MAX - used, ".%s[%zu]", field->name, index)
                : snprintf(path + used, PATH_BYTES_MAX - used, ".%s", field->name);
    used += (size_t)n;
    value = inner;
    at = field->type == PROTOBUF_C_TYPE_MESSAGE ? field->descriptor : NULL;
  }
  const char *largest =
      used ? tci_fmt(arena, "; most of it, %zu bytes, is in %s%s", value.len, message->short_name, path) : "";
  return (tci_status){TCI_RESOURCE_EXHAUSTED,
                      tci_fmt(arena, "%s: is %zu bytes long; at most %" PRId64 " are allowed (message_bytes_max)%s",
                              message->short_name, bytes.len, limits->message_bytes_max, largest ? largest : "")};
}
