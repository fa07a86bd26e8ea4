/* message: Lua tables <-> protobuf bytes, by the descriptors of turboci.v1. What a table looks like is told in
 * lua/turboci/_meta/core.lua. Shared by message.c (names, entry points), encode.c and decode.c.
 */
#ifndef TCI_LUA_MESSAGE_H
#define TCI_LUA_MESSAGE_H

#include "base/wire.h"
#include "lua/module.h"

#include <protobuf-c/protobuf-c.h>

enum { TCI_MESSAGE_DEPTH_MAX = 100 }; /* tables within tables */

/* Where in a message we are, from the leaf to the root: on the C stack, read only when something is wrong. */
typedef struct tci_message_path {
  const struct tci_message_path *up;
  tci_str name;      /* of a field, or a key */
  lua_Integer index; /* not 0: the index in a list, instead of a name */
} tci_message_path;

/* The messages that have a form of their own in Lua. */
typedef enum { TCI_SHAPE_FIELDS, TCI_SHAPE_TIMESTAMP, TCI_SHAPE_STRUCT, TCI_SHAPE_VALUE, TCI_SHAPE_LIST } tci_shape;

tci_shape tci_message_shape(const ProtobufCMessageDescriptor *message);
/* A repeated message that stands for a map. */
bool tci_message_is_map(const ProtobufCFieldDescriptor *field);
/* "PLANNED" of "CHECK_STATE_PLANNED": without the enum's own name. */
const char *tci_message_enum_short(const ProtobufCEnumDescriptor *type, const char *name);
/* Pushes "PATH: text" and returns false. The format is lua_pushfstring's. */
bool tci_message_fail(lua_State *L, const tci_message_path *path, const char *format, ...);
/* Gives the table at the top of the stack the metatable of lists. */
void tci_message_mark_list(lua_State *L);
bool tci_message_is_marked(lua_State *L, int index);
/* A table with the keys 1..n and no others; n may be 0. */
bool tci_message_is_list(lua_State *L, int index);

/* Appends the value at the top of the stack to `buf`. False: the text is on top of the stack, with any number of things
 * between it and the value. */
bool tci_message_encode(lua_State *L, const ProtobufCMessageDescriptor *message, const tci_message_path *path,
                        tci_buf *buf);
/* Pushes the value. False: the text is on top of the stack, with any number of things below it. */
bool tci_message_decode(lua_State *L, const ProtobufCMessageDescriptor *message, const tci_message_path *path,
                        tci_str bytes);

#endif
