/* log: one line an event to standard error: `time level event key=value ...`. Never called from the core. */
#ifndef TCI_BASE_LOG_H
#define TCI_BASE_LOG_H

typedef enum { TCI_LOG_DEBUG, TCI_LOG_INFO, TCI_LOG_WARN, TCI_LOG_ERROR, TCI_LOG_OFF } tci_log_level;

/* Default: TCI_LOG_INFO. Any thread. */
void tci_log_set_level(tci_log_level level);
/* tci_log(TCI_LOG_WARN, "commit_failed", "error=\"%s\" turns=%d", text, n). Any thread; a line is whole. */
void tci_log(tci_log_level level, const char *event, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
