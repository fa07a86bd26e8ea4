/* map: finds what was put and nothing else, through growth and removals of any order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/map.h"
#include "base/rng.h"

enum { KEYS = 40000 };

typedef struct {
  char text[16];
  tci_str key;
  bool in;
} entry;

static entry *entries_new(void) {
  entry *entries = tci_calloc(KEYS, sizeof *entries);
  for (int i = 0; i < KEYS; i++) {
    int len = snprintf(entries[i].text, sizeof entries[i].text, "node-%d", i);
    entries[i].key = (tci_str){entries[i].text, (size_t)len};
  }
  return entries;
}

static void assert_holds_exactly(const tci_map *map, entry *entries) {
  size_t in = 0;
  for (int i = 0; i < KEYS; i++) {
    assert_ptr_equal(tci_map_get(map, entries[i].key), entries[i].in ? &entries[i] : NULL);
    in += entries[i].in;
  }
  assert_int_equal(map->len, in);
}

static void an_empty_map_has_nothing(void **state) {
  (void)state;
  tci_map map = {0};
  assert_null(tci_map_get(&map, TCI_STR("a")));
  assert_null(tci_map_remove(&map, TCI_STR("a")));
  tci_map_deinit(&map);
}

static void every_key_is_found_while_the_map_grows(void **state) {
  (void)state;
  tci_map map = {0};
  entry *entries = entries_new();
  for (int i = 0; i < KEYS; i++) {
    assert_null(tci_map_put(&map, entries[i].key, &entries[i]));
    entries[i].in = true;
    assert_ptr_equal(tci_map_get(&map, entries[i / 2].key), &entries[i / 2]);
  }
  assert_holds_exactly(&map, entries);
  assert_true(map.len <= map.cap / 4 * 3);
  tci_map_deinit(&map);
  free(entries);
}

static void removals_lose_no_other_key(void **state) {
  (void)state;
  tci_map map = {0};
  entry *entries = entries_new();
  for (int i = 0; i < KEYS; i++) entries[i].in = !tci_map_put(&map, entries[i].key, &entries[i]);
  for (int i = 0; i < KEYS; i++) {
    if (i % 3 == 0) continue;
    assert_ptr_equal(tci_map_remove(&map, entries[i].key), &entries[i]);
    assert_null(tci_map_remove(&map, entries[i].key));
    entries[i].in = false;
  }
  assert_holds_exactly(&map, entries);
  for (int i = 0; i < KEYS; i += 3) {
    assert_ptr_equal(tci_map_remove(&map, entries[i].key), &entries[i]);
    entries[i].in = false;
  }
  assert_holds_exactly(&map, entries);
  tci_map_deinit(&map);
  free(entries);
}

static void a_random_life_agrees_with_a_plain_list(void **state) {
  (void)state;
  tci_map map = {0};
  entry *entries = entries_new();
  tci_rng rng;
  tci_rng_init(&rng, (const uint8_t *)"a fixed seed of exactly 32 bytes");
  for (int step = 0; step < 200000; step++) {
    /* Few keys at first, so that chains of a small, full table are cut everywhere, its wrap-around included. */
    entry *e = &entries[tci_rng_below(&rng, step < 100000 ? 24 : KEYS)];
    if (tci_rng_below(&rng, 2)) {
      assert_ptr_equal(tci_map_put(&map, e->key, e), e->in ? e : NULL);
      e->in = true;
    } else {
      assert_ptr_equal(tci_map_remove(&map, e->key), e->in ? e : NULL);
      e->in = false;
    }
    if (step < 100000 && step % 16 == 0)
      for (int i = 0; i < 24; i++)
        assert_ptr_equal(tci_map_get(&map, entries[i].key), entries[i].in ? &entries[i] : NULL);
  }
  assert_holds_exactly(&map, entries);
  tci_map_deinit(&map);
  free(entries);
}

static void the_table_stays_small_when_keys_come_and_go(void **state) {
  (void)state;
  tci_map map = {0};
  entry *entries = entries_new();
  for (int i = 0; i < KEYS; i++) {
    tci_map_put(&map, entries[i].key, &entries[i]);
    if (i >= 10) assert_ptr_equal(tci_map_remove(&map, entries[i - 10].key), &entries[i - 10]);
  }
  assert_int_equal(map.len, 10);
  assert_int_equal(map.cap, 16);
  tci_map_deinit(&map);
  free(entries);
}

static void a_replaced_value_takes_its_key_with_it(void **state) {
  (void)state;
  tci_map map = {0};
  tci_str old_key = tci_str_dup(TCI_STR("key")), new_key = tci_str_dup(TCI_STR("key"));
  int old_value, new_value;
  assert_null(tci_map_put(&map, old_key, &old_value));
  assert_ptr_equal(tci_map_put(&map, new_key, &new_value), &old_value);
  tci_str_free(&old_key); /* a sanitizer tells when the map still reads it */
  assert_ptr_equal(tci_map_get(&map, TCI_STR("key")), &new_value);
  assert_int_equal(map.len, 1);
  tci_str_free(&new_key);
  tci_map_deinit(&map);
}

static void keys_are_bytes_not_c_strings(void **state) {
  (void)state;
  static const tci_str keys[] = {{NULL, 0}, TCI_STR("a"), TCI_STR("a\0"), TCI_STR("a\0b"), TCI_STR("\xff\xfe")};
  enum { N = sizeof keys / sizeof *keys };
  tci_map map = {0};
  for (size_t i = 0; i < N; i++) assert_null(tci_map_put(&map, keys[i], (void *)&keys[i]));
  for (size_t i = 0; i < N; i++) assert_ptr_equal(tci_map_get(&map, keys[i]), &keys[i]);
  assert_null(tci_map_get(&map, TCI_STR("a\0c")));
  tci_map_deinit(&map);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_empty_map_has_nothing),
      cmocka_unit_test(every_key_is_found_while_the_map_grows),
      cmocka_unit_test(removals_lose_no_other_key),
      cmocka_unit_test(a_random_life_agrees_with_a_plain_list),
      cmocka_unit_test(the_table_stays_small_when_keys_come_and_go),
      cmocka_unit_test(a_replaced_value_takes_its_key_with_it),
      cmocka_unit_test(keys_are_bytes_not_c_strings),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
