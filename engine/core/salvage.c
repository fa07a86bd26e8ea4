/* salvage: see the header. One entry an execution that took keys, in order of appearance. */
#include "core/salvage.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/map.h"
#include "base/vec.h"
#include "core/change.h"

typedef struct {
  uint64_t id[2]; /* node, attempt: its bytes are the key of the map */
  tci_str keys;   /* heap, encoded ids */
  bool over;
} execution;

struct tci_salvage {
  tci_map by_id;
  TCI_VEC(execution *) all;
};

tci_salvage *tci_salvage_new(void) { return tci_calloc(1, sizeof(tci_salvage)); }

void tci_salvage_free(tci_salvage *s) {
  if (!s) return;
  for (size_t i = 0; i < s->all.len; i++) {
    tci_str_free(&s->all.items[i]->keys);
    free(s->all.items[i]);
  }
  tci_vec_free(&s->all);
  tci_map_deinit(&s->by_id);
  free(s);
}

static tci_str key_of(const uint64_t id[2]) { return (tci_str){(const char *)id, 2 * sizeof id[0]}; }

static void read_attempt(tci_salvage *s, const tci_change *c) {
  uint64_t id[2] = {c->node, c->attempt};
  execution *e = tci_map_get(&s->by_id, key_of(id));
  if (!e && !c->keys.len) return;
  if (!e) {
    e = tci_calloc(1, sizeof *e);
    e->id[0] = id[0];
    e->id[1] = id[1];
    tci_map_put(&s->by_id, key_of(e->id), e);
    tci_vec_push(&s->all, e);
  }
  if (c->keys.len) {
    tci_str_free(&e->keys);
    e->keys = tci_str_dup(c->keys);
  }
  e->over |= c->execution >= TCI_EXECUTION_COMPLETE;
}

void tci_salvage_add(tci_salvage *s, tci_str record) {
  tci_record_reader reader;
  tci_change change;
  if (!tci_record_open(record, &reader)) return;
  while (tci_record_next(&reader, &change) > 0)
    if (change.type == TCI_CHANGE_ATTEMPT) read_attempt(s, &change);
}

void tci_salvage_keys(const tci_salvage *s, tci_buf *out) {
  for (size_t i = 0; i < s->all.len; i++)
    if (!s->all.items[i]->over) tci_buf_add(out, s->all.items[i]->keys); /* lists of ids joined are a list */
}
