/* request: how large a RunRequest gets is known when it is written, and refused there; what one turn sends is bounded. */
#include "core_test.h"

static void small_requests(fx *f, int64_t bytes) {
  f->limits.request_bytes_max = bytes;
  fx_renew(f);
  fx_create(f);
}

static const char *fat(fx *f, const char *format, int bytes) {
  char text[1024] = {0};
  memset(text, 'x', (size_t)bytes);
  return tci_fmt(&f->arena, format, text);
}

static void a_stage_that_could_never_be_sent_is_refused_when_it_is_written(void **state) {
  fx *f = *state;
  small_requests(f, 1400);
  fx_refuses(f, TCI_INVALID_ARGUMENT, "stages[0] 's': its request to a runner", fat(f, "s runner=go opt=k:%s", 400));
  fx_write(f, fat(f, "@c opt=k:%s", 200));
  fx_write(f, fat(f, "@d opt=k:%s", 200));
  fx_refuses(f, TCI_INVALID_ARGUMENT, "over the limit request_bytes_max (1400)", "s runner=go checks=c,d");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "assign it to fewer checks", fat(f, "@e opt=k:%s; s runner=go checks=c,e", 200));
  fx_write(f, "s runner=go checks=c,d:PLANNED"); /* what does not count is not sent */
  fx_write(f, "pulled checks=c,d");              /* nor is what nobody is called for */
  fx_write(f, "over runner=go checks=c,d state=FINAL");
}

static void options_do_not_outgrow_the_stages_that_have_them(void **state) {
  fx *f = *state;
  small_requests(f, 1500);
  fx_write(f, "@gate; @c opt=k:v; @d opt=k:v; s runner=go checks=c,d after=@gate; t runner=go checks=c; p checks=d");
  fx_write(f, fat(f, "@c opt=k:%s", 100));
  fx_refuses(f, TCI_INVALID_ARGUMENT, "checks[0] 'd': options: the request of stage 's' to a runner",
             fat(f, "@d opt=k:%s", 300));
  /* None of two is too large, both are. */
  fx_write(f, fat(f, "@d opt=k:%s", 100));
  fx_refuses(f, TCI_INVALID_ARGUMENT, "request_bytes_max",
             tci_fmt(&f->arena, "%s; %s", fat(f, "@c opt=k:%s", 140), fat(f, "@d opt=k:%s", 140)));
  fx_write(f, tci_fmt(&f->arena, "%s; @d opt=k:v", fat(f, "@c opt=k:%s", 250))); /* the other one makes room */
  fx_write(f, "s state=FINAL");
  fx_write(f, fat(f, "@d opt=k:%s", 400)); /* nobody is to be sent it any more */
}

static void one_that_is_too_large_all_the_same_fails_without_blame(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, fat(f, "s runner=go opt=k:%s", 900));
  f->limits.request_bytes_max = 1400; /* the server was started again with another limit */
  fx_restart(f, TCI_EVENT_RESTARTED);
  fx_register(f, "r", "go", "sync", 0, 0);
  fx_told(f, "");
  fx_drain(f);
  fx_is(f, "s", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!REPORTED");
  assert_int_equal(fx_runner(f, "r")->passed_over_until_us, 0);
  fx_contains(tci_str_z(&f->arena, fx_attempt(f, "s")->failure.message), "request_bytes_max (1400)");
}

static void one_turn_sends_so_many_bytes_and_the_next_goes_on(void **state) {
  fx *f = *state;
  f->limits.turn_request_bytes_max = 2500;
  fx_renew(f);
  fx_create(f);
  fx_write(f, "a runner=go; b runner=go; c runner=go; d runner=go; e runner=go");
  fx_register(f, "r", "go", "sync", 0, 0);
  fx_told(f, "a->r b->r c->r ");
  assert_true(f->update.more);
  fx_tick(f);
  fx_told(f, "d->r e->r ");
  assert_false(f->update.more);
}

static void a_result_is_found_among_very_many(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@c");
  for (int i = 0; i < 40; i++) {
    fx_write(f, tci_fmt(&f->arena, "@c result=human:h%d data=k:v", i));
    fx_write(f, tci_fmt(&f->arena, "@c result=robot:h%d data=k:v", i));
  }
  assert_int_equal(fx_check(f, "c")->results.len, 80);
  fx_write(f, "@c result=robot:h7 data=k:w finalize");
  assert_int_equal(fx_check(f, "c")->results.len, 80);
  assert_true(tci_check_result(fx_check(f, "c"), TCI_STR("robot"), TCI_STR("h7"))->finalized_us != 0);
  assert_int_equal(tci_check_result(fx_check(f, "c"), TCI_STR("human"), TCI_STR("h7"))->finalized_us, 0);
  assert_null(tci_check_result(fx_check(f, "c"), TCI_STR("robot"), TCI_STR("h40")));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(a_stage_that_could_never_be_sent_is_refused_when_it_is_written),
      CLAIM(options_do_not_outgrow_the_stages_that_have_them),
      CLAIM(one_that_is_too_large_all_the_same_fails_without_blame),
      CLAIM(one_turn_sends_so_many_bytes_and_the_next_goes_on),
      CLAIM(a_result_is_found_among_very_many),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
