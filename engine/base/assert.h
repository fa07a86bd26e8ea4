/* assert: a programmer's error stops the program, in every build. Never used on outside input. */
#ifndef TCI_BASE_ASSERT_H
#define TCI_BASE_ASSERT_H

_Noreturn void tci_assert_fail(const char *expr, const char *file, int line);

#define tci_assert(expr) ((expr) ? (void)0 : tci_assert_fail(#expr, __FILE__, __LINE__))
#define tci_unreachable() tci_assert_fail("unreachable", __FILE__, __LINE__)

#endif
