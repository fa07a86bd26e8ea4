-- The changes that tests/mutate/sites.lua finds in a known text: all of them, and no other.
local here = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = here .. "/?.lua;" .. package.path
local sites = require "sites"

-- C text, then the changes expected, in order: "line kind: what".
local cases = {
  { [[
/* if (a < b) */
#define NOT_ME(a) ((a) < 1)
static const char *const names[] = {"<", "1"};
int f(int a, int b) {
  return a < b && a == 0;
}
]], {
    "5 comparison: < to <=", "5 comparison: < to >=", "5 logic: && to ||", "5 comparison: == to !=",
    "5 off by one: 0 to 1",
  } },
  { [[
static const bool moves[2][2] = {
    {0, 1},
    {1, 0},
};
static const int sizes[] = {1, 2};
]], { "2 transition: the 1. 1 of the table to 0", "3 transition: the 2. 1 of the table to 0" } },
  { [[
void g(tci_core *core, thing *t) {
  thing copy = *t, *other = t;
  char text[33];
  for (i = 0; t; t = t->next) t->n--;
  if (t) {
    t->x = (pair){1u,
                  x};
  } else
    *other = copy;
  switch (t->x) {
    case A: t->y += 2; break;
  }
  while (t) tci_emit(core, t);
  tci_assert(t->x == 3 && t->y);
  tci_effect_add(core, K)->token = t;
  return;
}
]], {
    "4 off by one: 0 to 1", "4 assignment: dropped: t->n--", "5 condition: if (!(t))",
    "6 assignment: dropped: t->x = (pair){1u, x}", "6 off by one: 1u to 2u", "9 assignment: dropped: *other = copy",
    "11 assignment: dropped: t->y += 2", "11 off by one: 2 to 3", "13 condition: while (!(t))",
    "13 emit: dropped: tci_emit(core, t)", "15 emit: dropped: tci_effect_add(core, K)->token = t",
  } },
  { [[
int h(int a) { return a + 1 >= 0x10; }
]], { "1 off by one: 1 to 2", "1 off by one: + 1 to + 0", "1 comparison: >= to >", "1 comparison: >= to <",
      "1 off by one: 0x10 to 17" } },
}

local failures = 0
local function expect(what, got, wanted)
  if got == wanted then return end
  failures = failures + 1
  print(("FAILED %s: %s, wanted %s"):format(what, tostring(got), tostring(wanted)))
end

local total = 0
for c, case in ipairs(cases) do
  local found = {}
  for _, place in ipairs(sites.of(case[1])) do
    for _, change in ipairs(place.changes) do
      found[#found + 1] = ("%d %s: %s"):format(change.line, change.kind, change.what)
      local changed = sites.apply(case[1], change)
      expect("a change changes", changed ~= case[1], true)
      expect("lines stay", select(2, changed:gsub("\n", "")), select(2, case[1]:gsub("\n", "")))
    end
  end
  for i = 1, math.max(#found, #case[2]) do expect(("case %d, change %d"):format(c, i), found[i], case[2][i]) end
  total = total + #case[2]
end

local place = sites.of "int f(int a) { if (a > 1) return 2; return 3; }\n"[1]
expect("the place", place.name, "f")
expect("its lines", place.lines, 1)
expect("a line", place.changes[1].line, 1)
expect("a column", place.changes[1].column, 20)
expect("a condition", sites.apply("int f(int a) { if (a > 1) return 2; return 3; }\n", place.changes[1]),
  "int f(int a) { if (!(a > 1)) return 2; return 3; }\n")

print(("mutate selftest: %d changes, %d failures"):format(total, failures))
os.exit(failures == 0)
