/* address: what a runner may register, and what is dialled then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "rpc/codec.h"

static tci_str allowed_items[] = {
    {"loopback", 8}, {"10.1.2.3", 8}, {"build-7.example", 15}, {"[fd00::7]", 9}, {"unix:/run/turboci/", 18}};
static const tci_ids usual = {allowed_items, sizeof allowed_items / sizeof allowed_items[0]};
static const tci_ids nobody = {NULL, 0};

static void passes(const char *address, const char *dialled) {
  tci_arena arena = {0};
  tci_str out;
  tci_status status = tci_address_resolve(tci_str_from(address), &usual, &arena, &out);
  if (status.code != TCI_OK) fail_msg("%s: %s", address, status.message);
  if (!tci_str_eq(out, tci_str_from(dialled))) fail_msg("%s gives %.*s", address, TCI_STR_ARG(out));
  tci_arena_deinit(&arena);
}

static void refused_by(const tci_ids *allowed, const char *address, tci_code code, const char *text_part) {
  tci_arena arena = {0};
  tci_str out;
  tci_status status = tci_address_resolve(tci_str_from(address), allowed, &arena, &out);
  if (status.code != code || !strstr(status.message, text_part))
    fail_msg("%s: got %s \"%s\"", address, tci_code_name(status.code), status.message ? status.message : "");
  assert_int_equal(out.len, 0);
  tci_arena_deinit(&arena);
}

static void invalid(const char *address) { refused_by(&usual, address, TCI_INVALID_ARGUMENT, "give host:port"); }
static void denied(const char *address) { refused_by(&usual, address, TCI_PERMISSION_DENIED, "allowed hosts: "); }

static void loopback_is_dialled_as_it_stands(void **state) {
  (void)state;
  passes("127.0.0.1:50061", "127.0.0.1:50061");
  passes("127.9.8.7:1", "127.9.8.7:1");
  passes("localhost:65535", "localhost:65535");
  passes("LocalHost:80", "LocalHost:80");
  passes("[::1]:50061", "[::1]:50061");
}

static void listen_addresses_become_dialable(void **state) {
  (void)state;
  passes(":50061", "127.0.0.1:50061");
  passes("0.0.0.0:50061", "127.0.0.1:50061");
  passes("[::]:50061", "[::1]:50061");
}

static void listed_hosts_pass(void **state) {
  (void)state;
  passes("10.1.2.3:50061", "10.1.2.3:50061");
  passes("Build-7.example:50061", "Build-7.example:50061");
  passes("[fd00:0::7]:50061", "[fd00:0::7]:50061");
}

static void other_hosts_are_denied_and_the_text_says_who_is_not(void **state) {
  (void)state;
  denied("10.1.2.4:50061");
  denied("evil.example:80");
  denied("127.0.0.1.evil.example:80");
  denied("128.0.0.1:80");
  denied("2130706433:80"); /* some resolvers read it as 127.0.0.1 */
  denied("127.1:80");
  denied("169.254.169.254:80");
  denied("[::ffff:127.0.0.1]:80");
  refused_by(&usual, "10.1.2.4:1", TCI_PERMISSION_DENIED,
             "loopback (127.0.0.0/8, localhost, ::1), 10.1.2.3, build-7.example");
  refused_by(&nobody, ":50061", TCI_PERMISSION_DENIED, "allowed hosts: none");
}

static void entries_that_never_match_are_refused_with_what_is_right(void **state) {
  (void)state;
  static const struct {
    const char *entry, *fault; /* NULL: it is good */
  } rows[] = {
      {"loopback", NULL},
      {"10.1.2.3", NULL},
      {"build-7.example", NULL},
      {"[fd00::7]", NULL},
      {"unix:/run/turboci", NULL},
      {"10.1.2.3:50061", "give 10.1.2.3"},
      {"build-7.example:80", "give build-7.example"},
      {"[fd00::7]:80", "give [fd00::7]"},
      {"fd00::7", "give [fd00::7]"},
      {"*", "without patterns"},
      {"*.example", "without patterns"},
      {"10.0.0.0/8", "without patterns and networks"},
      {"", "give a name"},
      {"dns:host", "give a name"},
      {"unix:run", "unix:/FOLDER"},
      {"unix:", "unix:/FOLDER"},
  };
  tci_arena arena = {0};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    tci_str entries[] = {TCI_STR("loopback"), tci_str_from(rows[i].entry)};
    tci_status status = tci_address_check_list(&(tci_ids){entries, 2}, &arena);
    if ((status.code == TCI_OK) != !rows[i].fault) fail_msg("%s: %s", rows[i].entry, tci_code_name(status.code));
    if (!rows[i].fault) continue;
    assert_int_equal(status.code, TCI_INVALID_ARGUMENT);
    if (!strstr(status.message, rows[i].fault)) fail_msg("'%s' does not say '%s'", status.message, rows[i].fault);
    if (!strstr(status.message, tci_fmt(&arena, "\"%s\"", rows[i].entry)))
      fail_msg("'%s' names no entry", status.message);
  }
  tci_arena_deinit(&arena);
}

static void schemes_are_refused(void **state) {
  (void)state;
  invalid("dns:50061");
  invalid("DNS:50061");
  invalid("dns:localhost:50061");
  invalid("dns:///localhost:50061");
  invalid("dns://8.8.8.8/localhost:50061");
  invalid("xds:///service:1");
  invalid("http://localhost:50061");
  invalid("ipv4:127.0.0.1:50061");
  invalid("passthrough:///localhost:1");
  invalid("unix-abstract:name");
}

static void nonsense_is_refused(void **state) {
  (void)state;
  invalid("");
  invalid("localhost");
  invalid("::1:50061");
  invalid("[::1:50061");
  invalid("[]:50061");
  invalid("[localhost]:50061");
  invalid("[fe80::1%eth0]:50061");
  invalid("user@localhost:50061");
  invalid("local host:50061");
  invalid("localhost:50061\n");
  invalid(
      "b\xc3\xbc"
      "cher.example:80");
  invalid("localhost%00:50061");
}

static void ports_are_numbers_from_1_to_65535(void **state) {
  (void)state;
  refused_by(&usual, "localhost:0", TCI_INVALID_ARGUMENT, "port 0 cannot be dialled");
  invalid("localhost:");
  invalid("localhost:65536");
  invalid("localhost:999999");
  invalid("localhost:-1");
  invalid("localhost:+1");
  invalid("localhost:http");
}

static void unix_sockets_pass_inside_an_allowed_folder(void **state) {
  (void)state;
  passes("unix:/run/turboci/runner.sock", "unix:/run/turboci/runner.sock");
  passes("unix:///run/turboci/a/b.sock", "unix:/run/turboci/a/b.sock");
  denied("unix:/run/turboci-evil/x");
  denied("unix:/run/turboci");
  denied("unix:/run/turboci/");
  denied("unix:/run/docker.sock");
  refused_by(&nobody, "unix:/run/turboci/x", TCI_PERMISSION_DENIED, "none");
}

static void tricky_unix_paths_are_refused(void **state) {
  (void)state;
  invalid("unix:");
  invalid("unix:runner.sock");
  invalid("unix://host/run/turboci/x");
  invalid("unix:/run/turboci/../docker.sock");
  invalid("unix:/run/turboci/..");
  invalid("unix:/run/turboci/%2e%2e/docker.sock"); /* gRPC core decodes that */
  invalid("unix:/run/turboci/x?y");
  invalid(
      "unix:/run/turboci/"
      "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(loopback_is_dialled_as_it_stands),
      cmocka_unit_test(listen_addresses_become_dialable),
      cmocka_unit_test(listed_hosts_pass),
      cmocka_unit_test(other_hosts_are_denied_and_the_text_says_who_is_not),
      cmocka_unit_test(entries_that_never_match_are_refused_with_what_is_right),
      cmocka_unit_test(schemes_are_refused),
      cmocka_unit_test(nonsense_is_refused),
      cmocka_unit_test(ports_are_numbers_from_1_to_65535),
      cmocka_unit_test(unix_sockets_pass_inside_an_allowed_folder),
      cmocka_unit_test(tricky_unix_paths_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
