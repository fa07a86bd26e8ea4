/* limits: the table of core/limits.h, by name. */
#include "core/limits.h"

#include <stddef.h>
#include <string.h>

#include "base/guess.h"

#define INFO(name, value, doc) {#name, doc, offsetof(tci_limits, name)},
const tci_limit_info tci_limit_infos[] = {TCI_LIMITS(INFO)};
#undef INFO
const size_t tci_limit_infos_len = sizeof tci_limit_infos / sizeof tci_limit_infos[0];

tci_limits tci_limits_default(void) {
#define VALUE(name, value, doc) .name = (value),
  return (tci_limits){TCI_LIMITS(VALUE)};
#undef VALUE
}

/* Milliseconds of it still fit an int64 of microseconds, and bytes of it no machine. */
#define VALUE_MAX 1000000000000LL

int64_t tci_limit_most(const tci_limit_info *info) {
#define MOST(name, most) \
  if (info->offset == offsetof(tci_limits, name)) return most;
  TCI_LIMITS_MOST(MOST)
#undef MOST
  return VALUE_MAX;
}

tci_status tci_limits_set(tci_limits *limits, tci_str name, int64_t value, tci_arena *arena) {
  tci_guess guess = tci_guess_start(name);
  for (size_t i = 0; i < tci_limit_infos_len; i++) {
    const tci_limit_info *info = &tci_limit_infos[i];
    if (tci_str_eq(name, tci_str_from(info->name))) {
      if (value < 1 || value > tci_limit_most(info))
        return (tci_status){TCI_INVALID_ARGUMENT,
                            tci_fmt(arena, "limit %s: %lld is out of range; give a number from 1 to %lld", info->name,
                                    (long long)value, (long long)tci_limit_most(info))};
      memcpy((char *)limits + info->offset, &value, sizeof value);
      return TCI_STATUS_OK;
    }
    tci_guess_offer(&guess, tci_str_from(info->name));
  }
  return (tci_status){TCI_INVALID_ARGUMENT,
                      tci_fmt(arena, "no limit is called '%.*s'%s", TCI_STR_ARG(name), tci_guess_text(&guess, arena))};
}
