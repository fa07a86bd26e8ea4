/* text: a status whose message is formatted into the caller's buffer. Inside of the store only. */
#ifndef TCI_STORE_TEXT_H
#define TCI_STORE_TEXT_H

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include "base/status.h"

__attribute__((format(printf, 4, 5))) static inline tci_status tci_text(tci_code code, char *message, size_t size,
                                                                        const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(message, size, format, args);
  va_end(args);
  return (tci_status){code, message};
}

#endif
