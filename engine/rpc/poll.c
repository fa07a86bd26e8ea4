/* poll: one completion queue, one thread that waits on it, and the small things server and client share.
 *
 * 1. Every handler of the room runs on this thread; it sleeps in the queue until there is something, without a
 *    timeout. All socket reading happens inside that wait.
 * 2. Everything that waits (servers, clients, their calls) is gone before the queue is shut down: see rpc.h.
 * 3. No signal is delivered to this thread or to gRPC's own: they belong to the program.
 * 4. Reading everything out (tci_rpc_read_out) ends when gRPC's epoll set has nothing ready and gRPC has worked off what
 *    it had taken from there before: one descriptor for each look, of at most READY_MAX.
 * 5. gRPC is initialized once and stays, its few threads asleep: its last grpc_shutdown waits for up to 10 s when a
 *    write had blocked shortly before (a helper thread of gRPC sleeps that long in epoll). Therefore the library that
 *    holds this code is never unloaded either.
 *
 * Callers: app/server.c and engine/lua open and close; server.c and client.c use the rest.
 */
#define _GNU_SOURCE 1
#include "rpc/rpc_internal.h"

#include <dirent.h>
#include <dlfcn.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include <grpc/byte_buffer_reader.h>
#include <grpc/support/log.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"

/* ThreadSanitizer does not see gRPC's own locks: told here, it knows that what the starter of an operation wrote is
 * the polling thread's now. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TCI_TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define TCI_TSAN 1
#endif
#ifdef TCI_TSAN
#include <sanitizer/tsan_interface.h>
#else
#define __tsan_acquire(address) ((void)(address))
#define __tsan_release(address) ((void)(address))
#endif

enum {
  EPOLLS_MAX = 8, /* gRPC has one */
  READY_MAX = 100,
  READ_OUT_MS_MAX = 2000,
};

static struct pollfd epolls[EPOLLS_MAX]; /* gRPC's: readable while a socket of its is ready and not looked at yet */
static nfds_t epolls_len;
static pthread_once_t grpc_once = PTHREAD_ONCE_INIT;

static void grpc_start(void);
static void *poll_run(void *arg);
static bool poll_once(tci_rpc *rpc, gpr_timespec until, bool *over);
static void on_nudge(tci_rpc_tag *tag, bool ok);
static size_t find_epolls(int out[EPOLLS_MAX]);
static void log_forward(gpr_log_func_args *args);
static void block_signals(sigset_t *before);

tci_rpc *tci_rpc_open(void) {
  tci_rpc *rpc = tci_calloc(1, sizeof *rpc);
  sigset_t before;
  block_signals(&before); /* gRPC's threads inherit the mask */
  pthread_once(&grpc_once, grpc_start);
  rpc->cq = grpc_completion_queue_create_for_next(NULL);
  rpc->nudge_tag.done = on_nudge;
  rpc->nowhere = grpc_lame_client_channel_create("nowhere", GRPC_STATUS_UNAVAILABLE, "nobody is called");
  rpc->nudge = grpc_channel_create_call(rpc->nowhere, NULL, GRPC_PROPAGATE_DEFAULTS, rpc->cq,
                                        grpc_slice_from_static_string("/nobody"), NULL,
                                        gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  tci_rpc_thread_start(&rpc->thread, poll_run, rpc, "tci-rpc");
  return rpc;
}

void tci_rpc_thread_start(pthread_t *out, void *(*run)(void *arg), void *arg, const char *name) {
  sigset_t before;
  block_signals(&before);
  int failed = pthread_create(out, NULL, run, arg);
  tci_assert(!failed); /* as out of memory */
  pthread_setname_np(*out, name);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void tci_rpc_close(tci_rpc *rpc) {
  if (!rpc) return;
  tci_assert(!tci_rpc_on_thread(rpc));
  grpc_call_unref(rpc->nudge);
  grpc_channel_destroy(rpc->nowhere);
  grpc_completion_queue_shutdown(rpc->cq);
  int failed = pthread_join(rpc->thread, NULL); /* it drains the queue first */
  tci_assert(!failed);
  grpc_completion_queue_destroy(rpc->cq);
  free(rpc);
}

static void grpc_start(void) {
  int before[EPOLLS_MAX], after[EPOLLS_MAX];
  size_t before_len = find_epolls(before);
  grpc_init();
  size_t after_len = find_epolls(after);
  for (size_t i = 0; i < after_len; i++) {
    bool own = true;
    for (size_t j = 0; j < before_len; j++) own = own && before[j] != after[i];
    if (own) epolls[epolls_len++] = (struct pollfd){.fd = after[i], .events = POLLIN};
  }
  gpr_set_log_function(log_forward);
  /* A Lua program unloads its C modules at its end; gRPC's threads would wake up in code that is gone. */
  Dl_info own;
  if (dladdr(&grpc_once, &own) && own.dli_fname) dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

static void *poll_run(void *arg) {
  tci_rpc *rpc = arg;
  for (bool over = false; !over;) poll_once(rpc, gpr_inf_future(GPR_CLOCK_MONOTONIC), &over);
  return NULL;
}

/* Handles one event; false when none came in time. */
static bool poll_once(tci_rpc *rpc, gpr_timespec until, bool *over) {
  grpc_event event = grpc_completion_queue_next(rpc->cq, until, NULL);
  *over = event.type == GRPC_QUEUE_SHUTDOWN;
  if (event.type != GRPC_OP_COMPLETE) return false;
  tci_rpc_tag *tag = event.tag;
  __tsan_acquire(tag);
  tag->done(tag, event.success);
  return true;
}

void tci_rpc_read_out(tci_rpc *rpc, void (*done)(void *ctx), void *ctx) {
  rpc->read_out = done;
  rpc->read_out_ctx = ctx;
  tci_rpc_batch(rpc->nudge, NULL, 0, &rpc->nudge_tag);
}

static void on_nudge(tci_rpc_tag *tag, bool ok) {
  (void)ok;
  tci_rpc *rpc = tci_container(tag, tci_rpc, nudge_tag);
  int64_t give_up_us = tci_clock_mono_us() + READ_OUT_MS_MAX * 1000;
  bool over = false;
  for (int quiet = 0; quiet <= READY_MAX && !over && tci_clock_mono_us() < give_up_us; quiet++)
    if (poll_once(rpc, gpr_time_0(GPR_CLOCK_MONOTONIC), &over) || poll(epolls, epolls_len, 0) > 0) quiet = 0;
  rpc->read_out(rpc->read_out_ctx);
}

/* The epoll sets of this process; none where there is no /proc. */
static size_t find_epolls(int out[EPOLLS_MAX]) {
  size_t len = 0;
  DIR *folder = opendir("/proc/self/fd");
  for (const struct dirent *entry; folder && (entry = readdir(folder)) && len < EPOLLS_MAX;) {
    char path[300], target[32];
    snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n < 0) continue;
    target[n] = '\0';
    if (strcmp(target, "anon_inode:[eventpoll]") == 0) out[len++] = atoi(entry->d_name);
  }
  if (folder) closedir(folder);
  return len;
}

bool tci_rpc_on_thread(const tci_rpc *rpc) { return pthread_equal(pthread_self(), rpc->thread); }

void tci_rpc_tag_leaves(tci_rpc_tag *tag) { __tsan_release(tag); }

void tci_rpc_batch(grpc_call *call, const grpc_op *ops, size_t ops_len, tci_rpc_tag *tag) {
  tci_rpc_tag_leaves(tag);
  grpc_call_error error = grpc_call_start_batch(call, ops, ops_len, tag, NULL);
  tci_assert(error == GRPC_CALL_OK);
}

tci_str tci_rpc_buffer_bytes(grpc_byte_buffer *buffer, char **heap) {
  *heap = NULL;
  grpc_byte_buffer_reader reader;
  int readable = grpc_byte_buffer_reader_init(&reader, buffer);
  tci_assert(readable);
  size_t len = grpc_byte_buffer_length(buffer), at = 0;
  tci_str bytes = {NULL, len};
  grpc_slice *slice;
  while (grpc_byte_buffer_reader_peek(&reader, &slice)) {
    size_t n = GRPC_SLICE_LENGTH(*slice);
    if (n == len) { /* the usual case: all of it in one piece */
      bytes.ptr = (const char *)GRPC_SLICE_START_PTR(*slice);
      break;
    }
    if (!*heap) bytes.ptr = *heap = tci_malloc(len);
    if (n) memcpy(*heap + at, GRPC_SLICE_START_PTR(*slice), n);
    at += n;
  }
  grpc_byte_buffer_reader_destroy(&reader);
  return bytes;
}

grpc_byte_buffer *tci_rpc_buffer_new(tci_str bytes) {
  grpc_slice slice = bytes.len ? grpc_slice_from_copied_buffer(bytes.ptr, bytes.len) : grpc_empty_slice();
  grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
  grpc_slice_unref(slice);
  return buffer;
}

size_t tci_rpc_text(tci_str text, char out[TCI_RPC_TEXT_BYTES_MAX + 1]) {
  size_t len = text.len;
  if (len > TCI_RPC_TEXT_BYTES_MAX) {
    len = TCI_RPC_TEXT_BYTES_MAX;
    /* Not in the middle of a character: it has at most three bytes of the form 10xxxxxx. */
    for (int i = 0; i < 3 && ((uint8_t)text.ptr[len] & 0xc0) == 0x80; i++) len--;
  }
  if (len) memcpy(out, text.ptr, len);
  out[len] = '\0';
  bool valid = tci_str_is_utf8((tci_str){out, len});
  for (size_t i = 0; i < len; i++)
    if (out[i] == '\0' || (!valid && (uint8_t)out[i] >= 0x80)) out[i] = '?';
  return len;
}

grpc_arg tci_rpc_arg(const char *key, int value) {
  return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

void tci_rpc_cond_init(pthread_cond_t *cond) {
  pthread_condattr_t attr;
  int failed = pthread_condattr_init(&attr);
  failed |= pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  failed |= pthread_cond_init(cond, &attr);
  failed |= pthread_condattr_destroy(&attr);
  tci_assert(!failed);
}

/* gRPC prints in a format of its own; its errors are the operator's to see (descriptors run out, say), no more. */
static void log_forward(gpr_log_func_args *args) {
  if (args->severity < GPR_LOG_SEVERITY_ERROR) return;
  const char *slash = strrchr(args->file, '/');
  tci_log(TCI_LOG_WARN, "grpc", "at=%s:%d message=\"%s\"", slash ? slash + 1 : args->file, args->line, args->message);
}

static void block_signals(sigset_t *before) {
  static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS, SIGPROF}; /* a thread's own */
  sigset_t blocked;
  sigfillset(&blocked);
  for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&blocked, own[i]);
  pthread_sigmask(SIG_SETMASK, &blocked, before);
}
