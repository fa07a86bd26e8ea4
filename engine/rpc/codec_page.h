/* codec_page: lists in parts: page tokens, and what fits into so many bytes. Inside the codec only.
 *
 * A token holds a position (core/event.h: tci_page) and a check over it and the query: it is opaque, and whoever changes the
 * query or the token is told so. It is no secret and needs none: a position reads nothing that the query may not read.
 */
#ifndef TCI_RPC_CODEC_PAGE_H
#define TCI_RPC_CODEC_PAGE_H

#include "core/event.h"

enum { TCI_PAGE_TOKEN_BYTES = 32 };

/* Reads a token of this command (all but its position is read already) into command->page.from; false: it is none. */
bool tci_codec_page_open(tci_str token, tci_command *command);
/* The token for a position, terminated. */
void tci_codec_page_seal(const tci_command *command, uint64_t from, char out[TCI_PAGE_TOKEN_BYTES + 1]);

#endif
