/* list: an intrusive doubly linked list with a sentinel. */
#ifndef TCI_BASE_LIST_H
#define TCI_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

typedef struct tci_link {
  struct tci_link *prev, *next; /* both NULL: in no list */
} tci_link;

#define tci_container(link, type, member) ((type *)((char *)(link)-offsetof(type, member)))

static inline void tci_list_init(tci_link *list) { list->prev = list->next = list; }
static inline bool tci_list_empty(const tci_link *list) { return list->next == list; }
static inline bool tci_link_in(const tci_link *link) { return link->next != NULL; }
static inline void tci_list_push(tci_link *list, tci_link *link) {
  link->prev = list->prev;
  link->next = list;
  list->prev->next = link;
  list->prev = link;
}
static inline void tci_link_remove(tci_link *link) {
  link->prev->next = link->next;
  link->next->prev = link->prev;
  link->prev = link->next = NULL;
}

#endif
