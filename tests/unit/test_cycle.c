/* cycle: no write closes a circle, whatever it is made of; the path is printed; nothing else is searched. */
#include "core_test.h"

static void a_node_does_not_wait_for_itself(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_refuses(f, TCI_INVALID_ARGUMENT, "stage 's' -> stage 's'", "s runner=go after=s");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "check 'c' -> check 'c'", "@c any=@c");
}

static void circles_of_new_nodes_are_refused_with_their_path(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_refuses(f, TCI_INVALID_ARGUMENT, "cycle: check 'c' -> stage 'a' -> stage 'b' -> check 'c'",
             "a runner=go after=b; b runner=go after=@c; @c after=a");
  fx_write(f, "a runner=go after=b; b runner=go after=@c; @c");
}

static void circles_through_old_nodes_are_refused(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@gate; a runner=go after=@gate; b runner=go after=a; c runner=go after=b");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "cycle", "a after=c");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "cycle", "a after=@gate,new; new runner=go after=c");
  fx_write(f, "a after=@gate,new; new runner=go after=@gate");
}

static void a_check_waits_for_the_stages_assigned_to_it(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_refuses(f, TCI_INVALID_ARGUMENT, "cycle", "@c; s runner=go checks=c after=@c");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "cycle", "@c; s runner=go checks=c after=t; t runner=go after=@c");
  fx_write(f, "@gate; @c; t runner=go after=@c,@gate; s runner=go after=@gate");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "cycle", "t checks=c");
  fx_write(f, "s checks=c");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "cycle", "s after=t");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "cycle", "u runner=go after=t checks=c");
}

static void an_assignment_that_does_not_count_closes_no_circle(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@gate; @c after=@gate; s runner=go after=@c checks=c:WAITING");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "cycle", "s checks=c:FINAL");
  fx_refuses(f, TCI_INVALID_ARGUMENT, "cycle", "s checks=c");
}

static void edges_that_the_write_takes_away_do_not_count(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@gate; @c; @d; a runner=go after=@gate; b runner=go after=a; s runner=go after=@gate checks=c");
  fx_write(f, "a after=b; b after=@gate"); /* turned around in one write */
  fx_refuses(f, TCI_INVALID_ARGUMENT, "cycle", "s after=@c");
  fx_write(f, "s after=@c checks=d");
}

static void a_diamond_is_no_circle(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a; b runner=go after=@a; c runner=go after=@a; d runner=go after=b,c,@a; e runner=go any=d,b,c");
  fx_is(f, "e", "PLANNED");
}

static void a_long_path_is_shortened(void **state) {
  fx *f = *state;
  fx_create(f);
  char text[2000];
  size_t at = (size_t)snprintf(text, sizeof text, "n0 runner=go after=n39");
  for (int i = 1; i < 40; i++)
    at += (size_t)snprintf(text + at, sizeof text - at, ";n%d runner=go after=n%d", i, i - 1);
  fx_refuses(f, TCI_INVALID_ARGUMENT, "more)", text);
}

static void a_circle_of_100000_is_found_without_stack(void **state) {
  fx *f = *state;
  enum { LEN = 100000 };
  f->compare_every = 0;
  f->limits.write_nodes_max = LEN + 1;
  fx_renew(f);
  fx_create(f);
  char *text = tci_arena_alloc(&f->arena, LEN * 40);
  size_t at = (size_t)snprintf(text, LEN * 40, "@gate;n0 runner=go after=@gate");
  for (int i = 1; i < LEN; i++) at += (size_t)snprintf(text + at, LEN * 40 - at, ";n%d runner=go after=n%d", i, i - 1);
  tci_command cmd = fx_parse_write(&f->arena, f->plan_id, text);
  cmd.write_nodes.omit_nodes = true;
  assert_int_equal(fx_command(f, cmd)->status.code, TCI_OK);
  fx_refuses(f, TCI_INVALID_ARGUMENT, "cycle", "n0 after=n99999");
  fx_write(f, "n99999 after=@gate");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(a_node_does_not_wait_for_itself),
      CLAIM(circles_of_new_nodes_are_refused_with_their_path),
      CLAIM(circles_through_old_nodes_are_refused),
      CLAIM(a_check_waits_for_the_stages_assigned_to_it),
      CLAIM(an_assignment_that_does_not_count_closes_no_circle),
      CLAIM(edges_that_the_write_takes_away_do_not_count),
      CLAIM(a_diamond_is_no_circle),
      CLAIM(a_long_path_is_shortened),
      CLAIM(a_circle_of_100000_is_found_without_stack),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
