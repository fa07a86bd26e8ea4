/* source: what a file would cost, before it is compiled. The compiler is not counted and cannot be stopped, and its
 * work grows with squares: each name is looked for among all locals and upvalues that it could mean, each `and` at the
 * end of the jumps before it, each number among those before it (they are keys of a table, and can be chosen to be in one
 * chain of it). The same goes for Lua's error messages, which go back through a function's code once for
 * each index of `a.b.c`.
 *
 * 1. The tokens are read as Lua reads them; what cannot be Lua is the compiler's to refuse, which reads no further.
 * 2. The estimate is an upper bound: a unit of it is at most some 3 ns.
 *
 * Called by load.c.
 */
#include "script/internal.h"

#include <string.h>

enum {
  NESTING_MAX = 250, /* the compiler's own is 200 */
  LOCALS_MAX = 200,  /* Lua's, of a function */
  UPVALUES_MAX = 255,
  SMALL_DIGITS = 4,
};

/* What is open. */
enum { BLOCK, BEFORE_DO, REPEAT, FUNCTION, CALL, INDEX, BRACKET };

typedef struct {
  uint8_t kind;
  int locals; /* of the function, before it */
  int row;    /* INDEX: of indexes, before it */
} opening;

/* The last token. */
typedef enum { OTHER, VALUE /* it ends one, or may */, DOT, COLON, LOCAL } token;

typedef enum { NOTHING, LOCALS, PARAMETERS_NEXT, PARAMETERS } declares;

typedef struct {
  const char *at, *end;
  tci_source *out;
  token last;
  declares declares;
  opening open[NESTING_MAX + 1];
  int open_len;
  int locals[NESTING_MAX + 1], names[NESTING_MAX + 1]; /* of the functions around */
  int function;                                        /* the innermost */
  int jumps, numbers, row;
} scan;

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static char peek(const scan *x, size_t ahead) { return (size_t)(x->end - x->at) > ahead ? x->at[ahead] : '\0'; }

/* ---- what is jumped over ---- */

/* Of "[==["; 0: it is none. */
static size_t long_bracket(const scan *x) {
  size_t n = 1;
  while (peek(x, n) == '=') n++;
  return peek(x, 0) == '[' && peek(x, n) == '[' ? n + 1 : 0;
}

static void skip_long(scan *x, size_t len) {
  for (x->at += len; x->at < x->end; x->at++) {
    if (*x->at == '\n') x->out->line++;
    size_t n = 1;
    if (*x->at != ']') continue;
    while (peek(x, n) == '=') n++;
    if (n + 1 != len || peek(x, n) != ']') continue;
    x->at += len;
    return;
  }
}

static void skip_comment(scan *x) {
  x->at += 2;
  size_t len = long_bracket(x);
  if (len)
    skip_long(x, len);
  else
    while (x->at < x->end && *x->at != '\n') x->at++;
}

static void skip_string(scan *x) {
  char quote = *x->at++;
  for (; x->at < x->end && *x->at != quote; x->at++) {
    if (*x->at == '\\' && x->at + 1 < x->end) {
      x->at++;
      if (*x->at == 'z') /* and all blanks behind it */
        while (x->at + 1 < x->end && strchr(" \t\r\n\v\f", x->at[1]))
          if (*++x->at == '\n') x->out->line++;
    }
    if (*x->at == '\n') x->out->line++;
  }
  if (x->at < x->end) x->at++;
}

/* Small whole numbers are too few to be in each other's way. */
static void read_number(scan *x) {
  const char *from = x->at++;
  bool small = is_digit(*from);
  for (; x->at < x->end; x->at++) {
    char c = *x->at, before = x->at[-1];
    bool sign = (c == '+' || c == '-') && (before == 'e' || before == 'E' || before == 'p' || before == 'P');
    if (!is_digit(c) && !is_letter(c) && c != '.' && !sign) break;
    small = small && is_digit(c);
  }
  if (!small || x->at - from > SMALL_DIGITS) x->out->work += ++x->numbers;
}

/* ---- what is open ---- */

static void push(scan *x, uint8_t kind) {
  x->open[x->open_len++] = (opening){kind, x->locals[x->function], x->row};
  x->row = 0;
}

/* Those of `repeat` are seen behind `until`, too; they are taken to last. */
static opening pop(scan *x) {
  opening top = {.kind = BLOCK};
  if (!x->open_len) return top;
  top = x->open[--x->open_len];
  if (top.kind == FUNCTION && x->function) x->function--;
  if (top.kind < FUNCTION && top.kind != REPEAT) x->locals[x->function] = top.locals;
  return top;
}

static void declare(scan *x, int n) {
  int *locals = &x->locals[x->function];
  *locals = *locals + n < LOCALS_MAX ? *locals + n : LOCALS_MAX;
}

/* ---- tokens ---- */

/* It is looked for in each function around it, among the locals and the upvalues; a global twice: `_ENV` is then. */
static void use_name(scan *x) {
  int64_t seen = 0, around = 1;
  for (int i = 0; i <= x->function; i++) {
    int64_t upvalues = around < UPVALUES_MAX ? around : UPVALUES_MAX;
    if (upvalues > ++x->names[i]) upvalues = x->names[i];
    seen += x->locals[i] + upvalues;
    around += x->locals[i];
  }
  x->out->work += 2 * seen;
}

static void begin_function(scan *x) {
  if (x->last == LOCAL) declare(x, 1);
  push(x, FUNCTION);
  x->function++;
  x->locals[x->function] = x->names[x->function] = 0;
  declare(x, 1); /* self */
  x->declares = PARAMETERS_NEXT;
}

static bool is(tci_str word, const char *keyword) { return tci_str_eq(word, tci_str_from(keyword)); }

/* False: it is a name. */
static bool read_keyword(scan *x, tci_str word) {
  static const char *const jumps[] = {"and", "or", "elseif", "break"};
  static const char *const others[] = {"else", "goto", "in", "not", "return", "then", "until"};
  static const char *const values[] = {"false", "nil", "true"};
  bool known = true;
  if (word.len < 2 || word.len > 8) return false;
  declares before = x->declares;
  x->declares = NOTHING;
  if (is(word, "function")) {
    begin_function(x);
  } else if (is(word, "local")) {
    x->declares = LOCALS;
  } else if (is(word, "for")) {
    push(x, BEFORE_DO);
    declare(x, 3); /* its own */
    x->declares = LOCALS;
  } else if (is(word, "while")) {
    push(x, BEFORE_DO);
  } else if (is(word, "if")) {
    push(x, BLOCK);
  } else if (is(word, "repeat")) {
    push(x, REPEAT);
  } else if (is(word, "do")) {
    if (x->open_len && x->open[x->open_len - 1].kind == BEFORE_DO)
      x->open[x->open_len - 1].kind = BLOCK;
    else
      push(x, BLOCK);
  } else if (is(word, "end")) {
    pop(x);
  } else {
    known = false;
  }
  for (size_t i = 0; i < sizeof jumps / sizeof *jumps && !known; i++)
    if ((known = is(word, jumps[i]))) x->out->work += ++x->jumps;
  for (size_t i = 0; i < sizeof others / sizeof *others && !known; i++) known = is(word, others[i]);
  for (size_t i = 0; i < sizeof values / sizeof *values && !known; i++) known = is(word, values[i]);
  if (is(word, "until")) pop(x);
  if (is(word, "goto")) x->out->gotos++;
  if (!known) x->declares = before;
  if (known) x->last = is(word, "local") ? LOCAL : OTHER;
  return known;
}

static void end_index(scan *x) {
  if (x->row <= x->out->row) return;
  x->out->row = x->row;
  x->out->row_line = x->out->line;
}

static void read_word(scan *x) {
  tci_str word = {x->at, 0};
  while (x->at < x->end && (is_letter(*x->at) || is_digit(*x->at))) x->at++;
  word.len = (size_t)(x->at - word.ptr);
  if (x->last == DOT) {
    x->row++;
    end_index(x);
  } else if (x->last != COLON) {
    if (read_keyword(x, word)) return;
    x->row = 0;
    if (x->declares == LOCALS || x->declares == PARAMETERS)
      declare(x, 1);
    else
      use_name(x);
  }
  x->last = VALUE;
}

static void read_mark(scan *x) {
  char c = *x->at++, next = peek(x, 0);
  bool twice = (c == '.' || c == ':') && next == c, after_value = x->last == VALUE;
  if (twice) x->at++;
  if (c == '.' && twice && peek(x, 0) == '.') x->at++;
  if (c == ':' && twice) x->out->labels++;
  if (x->declares == LOCALS && c != ',' && c != '<' && c != '>') x->declares = NOTHING;
  x->last = OTHER;
  if (c == '.' && !twice) {
    x->last = DOT;
  } else if (c == ':' && !twice) {
    x->last = COLON;
  } else if (c == '(' && x->declares == PARAMETERS_NEXT) {
    push(x, CALL);
    x->declares = PARAMETERS;
  } else if (c == '(' || c == '{') {
    push(x, c == '{' || after_value ? CALL : BRACKET);
  } else if (c == '[') {
    push(x, after_value ? INDEX : CALL);
  } else if (c == ')' || c == ']' || c == '}') {
    opening top = pop(x);
    if (top.kind == CALL) x->row = 0;
    if (top.kind == INDEX) x->row += top.row + 1;
    end_index(x);
    if (x->declares == PARAMETERS) x->declares = NOTHING;
    x->last = VALUE;
  }
}

void tci_source_read(tci_str text, int64_t work_max, tci_source *out) {
  scan x = {.at = text.ptr, .end = text.ptr + text.len, .out = out};
  *out = (tci_source){.line = 1};
  while (x.at < x.end && x.open_len < NESTING_MAX && out->work <= work_max) {
    char c = *x.at;
    if (c == '\n') out->line++;
    if (c == '-' && peek(&x, 1) == '-') {
      skip_comment(&x);
    } else if (c == '"' || c == '\'' || long_bracket(&x)) {
      size_t len = long_bracket(&x);
      if (len)
        skip_long(&x, len);
      else
        skip_string(&x);
      x.row = 0;
      x.last = VALUE;
      x.declares = NOTHING;
    } else if (is_letter(c)) {
      read_word(&x);
    } else if (is_digit(c) || (c == '.' && is_digit(peek(&x, 1)))) {
      read_number(&x);
      x.last = OTHER;
    } else if (strchr(" \t\r\n\v\f", c)) {
      x.at++;
    } else {
      read_mark(&x);
    }
  }
}
