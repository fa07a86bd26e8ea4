/* salvage: which admission keys a plan may still hold whose journal is damaged. Reads what records are left, without a
 * model: nothing else of such a plan can be trusted. Used by app/engine.c when a plan is set aside.
 *
 * An execution of which nothing says that it has ended counts as live: what it held stays held. A key that only a damaged
 * record told of is not found.
 */
#ifndef TCI_CORE_SALVAGE_H
#define TCI_CORE_SALVAGE_H

#include "base/str.h"

typedef struct tci_salvage tci_salvage;

tci_salvage *tci_salvage_new(void);
void tci_salvage_free(tci_salvage *salvage); /* NULL is fine */
/* One record of the plan, in order. What cannot be read of it is left out. */
void tci_salvage_add(tci_salvage *salvage, tci_str record);
/* Appends the keys held, encoded ids (tci_ids_encode): one for each execution that holds it. */
void tci_salvage_keys(const tci_salvage *salvage, tci_buf *out);

#endif
