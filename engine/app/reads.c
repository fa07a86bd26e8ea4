/* reads: see reads.h. */
#include "app/reads.h"

#include <stdlib.h>
#include <string.h>

/* What a part costs besides its bytes; and when it is enough, so that others come in between. */
enum { PART_COST = 4096, PART_BYTES = 1 << 20 };

static void read_free(tci_read *read) {
  tci_buf_deinit(&read->bytes);
  tci_arena_deinit(&read->arena);
  free(read);
}

void tci_reads_forget_turn(tci_reads *reads) {
  for (size_t i = 0; i < reads->over.len; i++) read_free(reads->over.items[i]);
  reads->over.len = 0;
}

void tci_reads_free(tci_reads *reads) {
  tci_reads_forget_turn(reads);
  for (size_t i = 0; i < reads->waiting.len; i++) read_free(reads->waiting.items[i]);
  tci_vec_free(&reads->waiting);
  reads->waiting_bytes = 0;
  tci_vec_free(&reads->over);
}

bool tci_is_read(const tci_event *event) {
  if (event->kind != TCI_EVENT_COMMAND) return false;
  return event->command.kind == TCI_COMMAND_QUERY_NODES || event->command.kind == TCI_COMMAND_LIST_EXECUTIONS;
}

tci_read *tci_read_new(tci_reads *reads, const tci_event *event) {
  tci_read *read = tci_calloc(1, sizeof *read);
  read->event = *event;
  tci_page *page = &read->event.command.page;
  read->paged = page->size > 0;
  int64_t most = reads->limits->page_entries_max;
  if (!page->size || page->size > most) page->size = most;
  return read;
}

void tci_read_take(tci_reads *reads, tci_read *read, const tci_reply *reply) {
  const tci_limits *limits = reads->limits;
  size_t before = read->bytes.len;
  uint64_t next = 0;
  read->status = reply->status;
  if (reply->status.code == TCI_OK) {
    size_t most = (size_t)(read->paged ? limits->page_bytes_max : limits->reply_bytes_max) - before;
    read->status = tci_codec_reply_part(reply, &read->event.command, read->paged, most, read->paged ? most : PART_BYTES,
                                        &read->bytes, &next);
    if (read->status.code != TCI_OK && !read->paged)
      read->status.message = tci_fmt(&read->arena,
                                     "the reply would be over %lld bytes (limit reply_bytes_max); give a page_size, or "
                                     "filter by ids or states",
                                     (long long)limits->reply_bytes_max);
  } else {
    read->status.message = tci_str_z(&read->arena, tci_str_from(reply->status.message));
  }
  reads->left -= PART_COST + (int64_t)(read->bytes.len - before);
  read->done = read->paged || next == 0 || read->status.code != TCI_OK;
  read->event.command.page.from = next;
}

static tci_ids kept_ids(tci_arena *arena, tci_ids ids) {
  tci_ids copy = {tci_arena_array(arena, tci_str, ids.len + 1), ids.len};
  for (size_t i = 0; i < ids.len; i++) copy.items[i] = tci_str_copy(arena, ids.items[i]);
  return copy;
}

/* The request is gone with its turn. */
static void keep(tci_read *read) {
  read->kept = true;
  tci_command *c = &read->event.command;
  tci_arena *arena = &read->arena;
  c->plan_id = tci_str_copy(arena, c->plan_id);
  if (c->kind == TCI_COMMAND_QUERY_NODES) {
    c->query_nodes.check_ids = kept_ids(arena, c->query_nodes.check_ids);
    c->query_nodes.stage_ids = kept_ids(arena, c->query_nodes.stage_ids);
  } else {
    c->list_executions.stage_id = tci_str_copy(arena, c->list_executions.stage_id);
  }
}

void tci_reads_put(tci_reads *reads, tci_read *read) {
  if (read->done) {
    tci_vec_push(&reads->over, read);
    return;
  }
  bool goes_on = read->kept;
  tci_vec_push(&reads->waiting, read);
  if (!read->kept) keep(read);
  reads->waiting_bytes += read->arena.used_bytes;
  if (goes_on) { /* it stays the oldest */
    memmove(reads->waiting.items + 1, reads->waiting.items, (reads->waiting.len - 1) * sizeof(tci_read *));
    reads->waiting.items[0] = read;
    return;
  }
  if (reads->waiting.len == 1) return;
  tci_buf_deinit(&read->bytes); /* it was not as short as it might have been: it begins again when its turn comes */
  read->event.command.page.from = 0;
}

tci_read *tci_reads_next(tci_reads *reads) {
  if (!reads->waiting.len || reads->left <= 0) return NULL;
  tci_read *oldest = reads->waiting.items[0];
  reads->waiting.len--;
  reads->waiting_bytes -= oldest->arena.used_bytes;
  memmove(reads->waiting.items, reads->waiting.items + 1, reads->waiting.len * sizeof(tci_read *));
  return oldest;
}
