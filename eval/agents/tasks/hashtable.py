"""A C library whose deletions lose entries: compile, stress, fix, stress again."""

from eval.agents.task import Finish, Replace, Run, Step, Task, View

_HEADER = """\
#ifndef TABLE_H
#define TABLE_H

#include <stddef.h>
#include <stdint.h>

typedef struct table table;

table *table_new(void);
void table_free(table *t);
/* Sets the value of a key, which is not 0. */
void table_put(table *t, uint32_t key, uint32_t value);
/* 1 and the value, or 0 if the key is not there. */
int table_get(const table *t, uint32_t key, uint32_t *value);
/* 1 if the key was there. */
int table_remove(table *t, uint32_t key);
size_t table_size(const table *t);

#endif
"""

_SOURCE = """\
#include "table.h"

#include <stdlib.h>

typedef struct {
\tuint32_t key; /* 0: free */
\tuint32_t value;
} slot;

struct table {
\tslot *slots;
\tsize_t capacity; /* a power of two */
\tsize_t size;
};

static size_t home(const table *t, uint32_t key)
{
\treturn (key * 2654435761u) & (t->capacity - 1);
}

/* The slot of the key, or the free one where it would go. */
static size_t find(const table *t, uint32_t key)
{
\tsize_t i = home(t, key);
\twhile (t->slots[i].key != 0 && t->slots[i].key != key)
\t\ti = (i + 1) & (t->capacity - 1);
\treturn i;
}

table *table_new(void)
{
\ttable *t = calloc(1, sizeof *t);
\tt->capacity = 16;
\tt->slots = calloc(t->capacity, sizeof *t->slots);
\treturn t;
}

void table_free(table *t)
{
\tfree(t->slots);
\tfree(t);
}

static void grow(table *t)
{
\tslot *old = t->slots;
\tsize_t count = t->capacity;
\tt->capacity *= 2;
\tt->slots = calloc(t->capacity, sizeof *t->slots);
\tfor (size_t i = 0; i < count; i++)
\t\tif (old[i].key != 0)
\t\t\tt->slots[find(t, old[i].key)] = old[i];
\tfree(old);
}

void table_put(table *t, uint32_t key, uint32_t value)
{
\tif (4 * (t->size + 1) > 3 * t->capacity)
\t\tgrow(t);
\tslot *s = &t->slots[find(t, key)];
\tt->size += s->key == 0;
\ts->key = key;
\ts->value = value;
}

int table_get(const table *t, uint32_t key, uint32_t *value)
{
\tconst slot *s = &t->slots[find(t, key)];
\tif (s->key == 0)
\t\treturn 0;
\t*value = s->value;
\treturn 1;
}

int table_remove(table *t, uint32_t key)
{
\tslot *s = &t->slots[find(t, key)];
\tif (s->key == 0)
\t\treturn 0;
\ts->key = 0;
\tt->size--;
\treturn 1;
}

size_t table_size(const table *t)
{
\treturn t->size;
}
"""

_OLD = "\ts->key = 0;\n\tt->size--;\n\treturn 1;\n"
_NEW = """\
\tt->size--;
\t/* No gap may come before an entry that was pushed past it: those that can move back do. */
\tsize_t mask = t->capacity - 1, gap = (size_t)(s - t->slots);
\tfor (size_t i = (gap + 1) & mask; t->slots[i].key != 0; i = (i + 1) & mask) {
\t\tif (((i - home(t, t->slots[i].key)) & mask) >= ((i - gap) & mask)) {
\t\t\tt->slots[gap] = t->slots[i];
\t\t\tgap = i;
\t\t}
\t}
\tt->slots[gap].key = 0;
\treturn 1;
"""

_TEST = """\
/* Random puts and removals against a plain array. Prints the first difference. */
#include <stdio.h>
#include <stdlib.h>

#include "../table.h"

enum { KEYS = 3000 };

int main(int argc, char **argv)
{
\tlong rounds = argc > 1 ? atol(argv[1]) : 2000;
\tunsigned random = 1;
\tstatic unsigned expected[KEYS + 1];
\ttable *t = table_new();
\tfor (long round = 0; round < rounds; round++) {
\t\trandom = random * 1664525u + 1013904223u;
\t\tunsigned key = 1 + (random >> 8) % KEYS, value;
\t\tif (random >> 31) {
\t\t\ttable_put(t, key, (unsigned)round + 1);
\t\t\texpected[key] = (unsigned)round + 1;
\t\t} else {
\t\t\ttable_remove(t, key);
\t\t\texpected[key] = 0;
\t\t}
\t\tfor (key = 1; key <= KEYS; key++) {
\t\t\tint found = table_get(t, key, &value);
\t\t\tif (found != (expected[key] != 0) || (found && value != expected[key])) {
\t\t\t\tprintf("round %ld: key %u is %s\\n", round, key, found ? "wrong" : "lost");
\t\t\t\treturn 1;
\t\t\t}
\t\t}
\t}
\tprintf("%ld rounds, %zu keys at the end\\n", rounds, table_size(t));
\ttable_free(t);
\treturn 0;
}
"""

_MAKEFILE = """\
CFLAGS = -std=c11 -O2 -Wall -Wextra

build/stress: build/table.o build/test_stress.o
\t$(CC) -o $@ $^

build/%.o: %.c table.h | build
\t$(CC) $(CFLAGS) -c -o $@ $<

build/%.o: tests/%.c table.h | build
\t$(CC) $(CFLAGS) -c -o $@ $<

build:
\tmkdir -p build

check: build/stress
\ttimeout 100 build/stress 300000

clean:
\trm -rf build
"""

HASHTABLE = Task(
    name="hashtable",
    issue="After table_remove() the hash table sometimes no longer finds other keys. Fix it without a flag for "
    "deleted slots, and make `make check` pass.",
    check="make -s CC=gcc check",
    needs=("gcc", "make"),
    files={
        ".gitignore": "build/\n",
        "Makefile": _MAKEFILE,
        "table.h": _HEADER,
        "table.c": _SOURCE,
        "tests/test_stress.c": _TEST,
    },
    steps=(
        Step("What is here?", Run("ls -R . && wc -l *.c *.h tests/*.c && cat Makefile")),
        Step("The interface.", View("table.h")),
        Step("The table.", View("table.c")),
        Step("How is it tested?", Run("cat tests/test_stress.c")),
        Step("I build it.", Run("make CC=gcc")),
        Step("How soon does it go wrong?", Run("build/stress 300000")),
        Step("A removed slot ends the search for what was pushed past it. How long are such runs, and does the machine "
             "code do what I think?", Run("gcc -O2 -S -o - table.c | sed -n '/^table_remove:/,/^\\.LFE/p'")),
        Step("Removing has to close the gap.", Replace("table.c", _OLD, _NEW)),
        Step("Build it again, with more warnings.",
             Run("make CC=gcc CFLAGS='-std=c11 -O2 -Wall -Wextra -Wshadow -Wconversion'")),
        Step("A short run first.", Run("build/stress 50000")),
        Step("It holds. Without optimization, to see that it does not depend on it.",
             Run("make -s CC=gcc clean && make -s CC=gcc CFLAGS='-std=c11 -O0 -g' && timeout 100 build/stress 100000")),
        Step("Now as it is meant.", Run("make -s CC=gcc clean && make CC=gcc check")),
        Step("I look at the change.", Run("git status --short && git diff")),
        Step("Done.", Finish("table_remove() moves entries back into the gap; `make check` passes.")),
    ),
)  # fmt: skip
