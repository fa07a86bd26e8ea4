/* cycle: would a write close a circle? A node waits for its dependencies, and a check for the stages assigned to it.
 *
 * The graph is acyclic before the write, so a new circle passes through a node whose edges the write sets: the search
 * starts only there. Old nodes keep their old edges; when the write sets edges of new nodes alone, no old node can lead
 * back, and none is entered. Depth-first with a stack of its own: paths may be a million nodes long.
 */
#include <string.h>

#include "core/write.h"

typedef struct {
  uint64_t check, stage; /* node indexes: the write assigns the stage to the check */
} added_edge;

typedef struct {
  uint64_t node;
  size_t next; /* the edge to look at next */
} frame;

typedef struct {
  tci_write *write;
  added_edge *added; /* sorted by check */
  size_t added_len;
  uint8_t *new_marks; /* of nodes that do not exist yet */
  bool enters_old;
  TCI_VEC(frame) stack;
} search;

enum { WHITE, GREY, BLACK };

static int compare_added(const void *a, const void *b) {
  const added_edge *x = a, *y = b;
  if (x->check != y->check) return x->check < y->check ? -1 : 1;
  return x->stage < y->stage ? -1 : x->stage > y->stage;
}

static const tci_prepared *prepared(const search *s, uint64_t index) { return tci_write_item(s->write, index); }

static tci_node *existing(const search *s, uint64_t index) {
  const tci_plan *plan = s->write->plan;
  return index < plan->nodes.len ? plan->nodes.items[index] : NULL;
}

static void collect_added(search *s) {
  tci_write *w = s->write;
  size_t n = 0;
  for (size_t i = 0; i < w->len; i++) n += w->items[i].checks_len;
  s->added = tci_arena_array(w->arena, added_edge, n + 1);
  for (size_t i = 0; i < w->len; i++) {
    const tci_prepared *item = &w->items[i];
    for (size_t k = 0; k < item->checks_len; k++)
      if (tci_goal_counts(item->stage->assignments[k].goal))
        s->added[s->added_len++] = (added_edge){item->checks[k], item->index};
  }
  if (s->added_len) qsort(s->added, s->added_len, sizeof(added_edge), compare_added);
}

/* First place in `added` of a check's edges. */
static size_t added_at(const search *s, uint64_t check) {
  size_t low = 0, high = s->added_len;
  while (low < high) {
    size_t mid = (low + high) / 2;
    if (s->added[mid].check < check)
      low = mid + 1;
    else
      high = mid;
  }
  return low;
}

/* The k-th node that `index` waits for. 1: *target is set; 0: this edge will be gone; -1: there are no more. */
static int edge_at(const search *s, uint64_t index, size_t k, uint64_t *target) {
  const tci_prepared *item = prepared(s, index);
  tci_node *node = existing(s, index);
  size_t len = item && item->edges_changed ? item->targets_len : node ? node->group.len : 0;
  if (k < len) {
    *target = item && item->edges_changed ? item->targets[k] : node->group.edges[k].target->index;
    return 1;
  }
  k -= len;
  if ((item ? item->kind : node->kind) != TCI_NODE_CHECK) return -1;
  if (node) {
    const tci_check *check = tci_node_check(node);
    if (k < check->assigned.len) {
      *target = check->assigned.items[k]->stage->node.index;
      const tci_prepared *stage = prepared(s, *target);
      return stage && stage->assignments_changed ? 0 : 1;
    }
    k -= check->assigned.len;
  }
  size_t at = added_at(s, index) + k;
  if (at >= s->added_len || s->added[at].check != index) return -1;
  *target = s->added[at].stage;
  return 1;
}

static uint64_t mark_of(const search *s, uint64_t index) {
  const tci_node *node = existing(s, index);
  if (!node) return s->new_marks[index - s->write->plan->nodes.len];
  return node->mark <= s->write->core->mark ? WHITE : node->mark - s->write->core->mark;
}

static void set_mark(search *s, uint64_t index, uint8_t colour) {
  tci_node *node = existing(s, index);
  if (node)
    node->mark = s->write->core->mark + colour;
  else
    s->new_marks[index - s->write->plan->nodes.len] = colour;
}

static const char *node_text(const search *s, uint64_t index) {
  const tci_node *node = existing(s, index);
  const tci_prepared *item = node ? NULL : prepared(s, index);
  return tci_fmt(s->write->arena, "%s '%.*s'", tci_node_kind_name((int)(node ? node->kind : item->kind)),
                 TCI_STR_ARG(node ? node->id : item->id));
}

static bool found(search *s, uint64_t index) {
  enum { SHOWN = 12 };
  size_t from = s->stack.len;
  while (s->stack.items[from - 1].node != index) from--;
  from--;
  const char *path = node_text(s, s->stack.items[from].node);
  for (size_t i = from + 1; i < s->stack.len; i++) {
    if (i - from == SHOWN) {
      path = tci_fmt(s->write->arena, "%s -> ... (%zu more)", path, s->stack.len - i);
      break;
    }
    path = tci_fmt(s->write->arena, "%s -> %s", path, node_text(s, s->stack.items[i].node));
  }
  const tci_prepared *item = prepared(s, index);
  return tci_write_fault(s->write, item, TCI_INVALID_ARGUMENT,
                         "dependencies: cycle: %s -> %s (each waits for the next); remove one of these edges", path,
                         node_text(s, index));
}

static bool visit(search *s, uint64_t start) {
  if (mark_of(s, start) != WHITE) return true;
  set_mark(s, start, GREY);
  tci_vec_push(&s->stack, ((frame){start, 0}));
  while (s->stack.len) {
    frame *top = &s->stack.items[s->stack.len - 1];
    uint64_t target = 0;
    int edge = edge_at(s, top->node, top->next++, &target);
    if (edge < 0) {
      set_mark(s, top->node, BLACK);
      s->stack.len--;
      continue;
    }
    if (edge == 0 || (existing(s, target) && !s->enters_old)) continue;
    uint64_t mark = mark_of(s, target);
    if (mark == GREY) return found(s, target);
    if (mark == BLACK) continue;
    set_mark(s, target, GREY);
    tci_vec_push(&s->stack, ((frame){target, 0}));
  }
  return true;
}

bool tci_write_is_acyclic(tci_write *write) {
  search s = {.write = write};
  tci_core *core = write->core;
  core->mark += BLACK; /* what earlier searches left behind counts as WHITE; 64 bits do not run out */
  s.new_marks = tci_arena_array(write->arena, uint8_t, write->created + 1);
  collect_added(&s);
  for (size_t i = 0; i < write->len; i++) {
    const tci_prepared *item = &write->items[i];
    if (item->node && item->edges_changed) s.enters_old = true;
    for (size_t k = 0; k < item->checks_len; k++)
      if (existing(&s, item->checks[k])) s.enters_old = true;
  }
  bool fine = true;
  for (size_t i = 0; fine && i < write->len; i++) {
    const tci_prepared *item = &write->items[i];
    /* A check's new edge leads to the stage that is assigned to it: a circle through the edge meets that stage. */
    if (item->edges_changed || item->checks_len) fine = visit(&s, item->index);
  }
  tci_vec_free(&s.stack);
  return fine;
}
