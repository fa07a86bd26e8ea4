/* message: the names of messages, fields and enum values, and the entry points encode, decode, list, is_list.
 *
 * 1. Everything is driven by the descriptors that protoc-c generates from the contract: a new field or message needs
 *    no line here. Messages are found by walking from the two services.
 * 2. No struct of protobuf-c is ever made: tables are written as bytes and read from bytes.
 * 3. Field types that the contract does not use are refused when the module is loaded, not when they are met.
 */
#include "lua/message.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "turboci/v1/service.pb-c.h"
#include "turboci/v1/stagerunner.pb-c.h"

enum { PATH_NAME_BYTES_MAX = 60 };

static const char LIST_TYPE[] = "turboci.list";
static const char PACKAGE[] = "turboci.v1.";

/* ---- what encode.c and decode.c ask ---- */

tci_shape tci_message_shape(const ProtobufCMessageDescriptor *message) {
  static const struct {
    const char *name;
    tci_shape shape;
  } shapes[] = {
      {"google.protobuf.Timestamp", TCI_SHAPE_TIMESTAMP},
      {"google.protobuf.Struct", TCI_SHAPE_STRUCT},
      {"google.protobuf.Value", TCI_SHAPE_VALUE},
      {"google.protobuf.ListValue", TCI_SHAPE_LIST},
  };
  if (message->package_name[0] != 'g') return TCI_SHAPE_FIELDS;
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
    if (strcmp(message->name, shapes[i].name) == 0) return shapes[i].shape;
  return TCI_SHAPE_FIELDS;
}

bool tci_message_is_map(const ProtobufCFieldDescriptor *field) {
  if (field->label != PROTOBUF_C_LABEL_REPEATED || field->type != PROTOBUF_C_TYPE_MESSAGE) return false;
  const ProtobufCMessageDescriptor *entry = field->descriptor;
  size_t len = strlen(entry->short_name);
  return entry->n_fields == 2 && entry->fields[0].id == 1 && strcmp(entry->fields[0].name, "key") == 0 &&
         entry->fields[1].id == 2 && strcmp(entry->fields[1].name, "value") == 0 && len > 5 &&
         strcmp(entry->short_name + len - 5, "Entry") == 0;
}

/* The prefix is the type's name, not what the names happen to share: a new value never renames an old one. */
const char *tci_message_enum_short(const ProtobufCEnumDescriptor *type, const char *name) {
  const char *at = name;
  for (const char *c = type->short_name; *c; c++) {
    if (c != type->short_name && isupper((unsigned char)*c) && *at++ != '_') return name;
    if (*at++ != toupper((unsigned char)*c)) return name;
  }
  return at[0] == '_' && at[1] ? at + 1 : name;
}

static bool is_word(tci_str s) {
  if (s.len == 0 || isdigit((unsigned char)s.ptr[0])) return false;
  for (size_t i = 0; i < s.len; i++)
    if (!isalnum((unsigned char)s.ptr[i]) && s.ptr[i] != '_' && s.ptr[i] != '-') return false;
  return true;
}

static void add_path(luaL_Buffer *buffer, const tci_message_path *path) {
  if (path->up) add_path(buffer, path->up);
  if (path->index != 0) {
    char digits[32];
    snprintf(digits, sizeof digits, "[" LUA_INTEGER_FMT "]", path->index);
    luaL_addstring(buffer, digits);
    return;
  }
  tci_str name = path->name;
  bool cut = name.len > PATH_NAME_BYTES_MAX, word = is_word(name) || !path->up;
  if (cut) name.len = PATH_NAME_BYTES_MAX;
  if (path->up) luaL_addstring(buffer, word ? "." : "[\"");
  luaL_addlstring(buffer, name.ptr, name.len);
  if (cut) luaL_addstring(buffer, "...");
  if (!word) luaL_addstring(buffer, "\"]");
}

bool tci_message_fail(lua_State *L, const tci_message_path *path, const char *format, ...) {
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  va_list args;
  va_start(args, format);
  lua_pushvfstring(L, format, args);
  va_end(args);
  tci_str text = tci_lua_check_str(L, lua_gettop(L));
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  add_path(&buffer, path);
  luaL_addstring(&buffer, ": ");
  luaL_addlstring(&buffer, text.ptr, text.len);
  luaL_pushresult(&buffer);
  return false;
}

void tci_message_mark_list(lua_State *L) {
  luaL_newmetatable(L, LIST_TYPE);
  lua_setmetatable(L, -2);
}

bool tci_message_is_marked(lua_State *L, int index) {
  if (!lua_getmetatable(L, index)) return false;
  luaL_getmetatable(L, LIST_TYPE);
  bool marked = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return marked;
}

bool tci_message_is_list(lua_State *L, int index) {
  index = lua_absindex(L, index);
  lua_Unsigned len = lua_rawlen(L, index), seen = 0;
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1), seen++) {
    if (!lua_isinteger(L, -2) || (lua_Unsigned)lua_tointeger(L, -2) - 1 >= len) {
      lua_pop(L, 2);
      return false;
    }
  }
  return seen == len;
}

/* ---- the directory ---- */

static void check_field_type(const ProtobufCFieldDescriptor *field) {
  switch (field->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_BOOL:
    case PROTOBUF_C_TYPE_ENUM:
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE: return;
    default: tci_assert(!"a field type that turboci.core does not know"); /* invariant 3 */
  }
}

static void add_enum(lua_State *L, int enums, const ProtobufCEnumDescriptor *type) {
  lua_createtable(L, 0, (int)type->n_values);
  for (unsigned i = 0; i < type->n_values; i++) {
    lua_pushinteger(L, type->values[i].value);
    lua_setfield(L, -2, tci_message_enum_short(type, type->values[i].name));
  }
  lua_setfield(L, enums, type->short_name);
}

/* Adds a message and whatever it is made of: directory[full name] = descriptor. */
static void add_message(lua_State *L, int directory, int enums, const ProtobufCMessageDescriptor *message) {
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  bool known = lua_getfield(L, directory, message->name) != LUA_TNIL;
  lua_pop(L, 1);
  if (known) return;
  lua_pushlightuserdata(L, (void *)message);
  lua_setfield(L, directory, message->name);
  if (tci_message_shape(message) == TCI_SHAPE_TIMESTAMP) return;
  for (unsigned i = 0; i < message->n_fields; i++) {
    const ProtobufCFieldDescriptor *field = &message->fields[i];
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
      add_message(L, directory, enums, field->descriptor);
    } else if (tci_message_shape(message) == TCI_SHAPE_FIELDS) {
      check_field_type(field);
      if (field->type == PROTOBUF_C_TYPE_ENUM) add_enum(L, enums, field->descriptor);
    }
  }
}

/* The descriptor named by argument 1; the directory is upvalue 1. */
static const ProtobufCMessageDescriptor *check_message(lua_State *L) {
  tci_str name = tci_lua_check_str(L, 1);
  lua_pushvalue(L, 1);
  if (lua_rawget(L, lua_upvalueindex(1)) == LUA_TNIL) {
    lua_pushfstring(L, "%s%s", PACKAGE, name.ptr);
    if (lua_rawget(L, lua_upvalueindex(1)) == LUA_TNIL) {
      size_t package = sizeof PACKAGE - 1;
      if (name.len > package && memcmp(name.ptr, PACKAGE, package) == 0)
        name = (tci_str){name.ptr + package, name.len - package};
      tci_guess guess = tci_guess_start(name);
      for (lua_pushnil(L); lua_next(L, lua_upvalueindex(1)); lua_pop(L, 1))
        tci_guess_offer(&guess, tci_str_from(((const ProtobufCMessageDescriptor *)lua_touserdata(L, -1))->short_name));
      luaL_argerror(L, 1, lua_pushfstring(L, "no message is called '%s'%s", name.ptr, tci_lua_push_guess(L, &guess)));
    }
  }
  const ProtobufCMessageDescriptor *message = lua_touserdata(L, -1);
  return message;
}

/* ---- functions of the module ---- */

static int failed(lua_State *L) {
  lua_pushnil(L);
  lua_insert(L, -2);
  return 2;
}

static int encode(lua_State *L) {
  const ProtobufCMessageDescriptor *message = check_message(L);
  luaL_checkany(L, 2);
  tci_message_path root = {.name = tci_str_from(message->short_name)};
  tci_buf *buf = tci_lua_push_buf(L);
  lua_toclose(L, -1);
  lua_pushvalue(L, 2);
  if (!tci_message_encode(L, message, &root, buf)) return failed(L);
  tci_lua_push_str(L, tci_buf_str(buf));
  return 1;
}

static int decode(lua_State *L) {
  const ProtobufCMessageDescriptor *message = check_message(L);
  tci_str bytes = tci_lua_check_str(L, 2);
  tci_message_path root = {.name = tci_str_from(message->short_name)};
  return tci_message_decode(L, message, &root, bytes) ? 1 : failed(L);
}

static int list(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  tci_message_mark_list(L);
  return 1;
}

static int is_list(lua_State *L) {
  luaL_checkany(L, 1);
  bool yes = lua_istable(L, 1) && (tci_message_is_marked(L, 1) || lua_rawlen(L, 1) > 0) && tci_message_is_list(L, 1);
  lua_pushboolean(L, yes);
  return 1;
}

void tci_lua_open_messages(lua_State *L) {
  int module = lua_gettop(L);
  lua_newtable(L);
  lua_newtable(L);
  const ProtobufCServiceDescriptor *services[] = {&turboci__v1__turbo_ciorchestrator__descriptor,
                                                  &turboci__v1__stage_runner__descriptor};
  for (size_t s = 0; s < sizeof services / sizeof services[0]; s++)
    for (unsigned i = 0; i < services[s]->n_methods; i++) {
      add_message(L, module + 1, module + 2, services[s]->methods[i].input);
      add_message(L, module + 1, module + 2, services[s]->methods[i].output);
    }
  lua_setfield(L, module, "enums");
  const luaL_Reg functions[] = {
      {"encode", encode}, {"decode", decode}, {"list", list}, {"is_list", is_list}, {NULL, NULL}};
  lua_pushvalue(L, module);
  lua_insert(L, -2); /* luaL_setfuncs wants: table, upvalue */
  luaL_setfuncs(L, functions, 1);
  lua_settop(L, module);
}
