/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the checks that run in the guest share: a static program without any
 * library but libc. Each check prints one line, PASS or FAIL and its name.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <linux/types.h>

#include "../latido_record.h"

#define JSON_FILE	"/proc/latido_procesos"
#define BINARY_FILE	"/proc/latido_procesos.bin"
#define EXITS_FILE	"/proc/latido_procesos.exits"

/* A fault of the machinery around a check: ends the program, which is red. */
#define MUST(condition) do {						\
	if (!(condition)) {						\
		fprintf(stderr, "%s:%d: %s: %m\n", __FILE__, __LINE__,	\
			#condition);					\
		exit(3);						\
	}								\
} while (0)

/* Counts a fault of what is checked, and says the first of them. */
#define EXPECT(condition, ...) do {					\
	if (!(condition) && faults++ < 20) {				\
		printf("  line %d: ", __LINE__);			\
		printf(__VA_ARGS__);					\
		putchar('\n');						\
	}								\
} while (0)

extern __thread int faults;

/* Prints the verdict of the check so far, and starts the next one. */
void verdict(const char *name);
int failed_checks(void);

/* A table as one read(2) gave it, its parts found and its form checked. */
struct table {
	char *data;
	size_t size;
	struct latido_header *header;
	struct latido_record *records;
	struct latido_sum *sums;
	struct latido_trailer *trailer;
	const char *paths;
};

char *read_whole(const char *path, size_t room, size_t *size);
void read_table(const char *path, struct table *table);
void free_table(struct table *table);
const struct latido_record *find_pid(const struct table *table, uint32_t pid);
size_t cgroup_path(const struct table *table, uint64_t id, char *path, size_t room);

/* All exits since (not with) a number, with the number that follows. */
struct latido_record *read_exits(uint64_t since, size_t *count);

/* Waits until the newest exit is at least this one; false after 20 s. */
bool await_exit(uint64_t number);
uint64_t newest_exit(void);

/* JSON after RFC 8259, strictly. `rows` gets what "processes" holds. */
struct row {
	struct latido_record record;
	char cgroup[1024];
};

bool parse_json(const char *text, size_t size, struct row **rows, size_t *count);

/* Burns CPU time of this thread until its clock has gone on by so many ns. */
void burn(uint64_t ns);
uint64_t now_ns(int clock);
void set_name(const char *name);

void check_form(void);
void check_fields(void);
void check_namespace(void);
void check_exits(void);
void check_storm(int processes, uint64_t each_ns);
void check_burst(int processes);
void check_keys(int processes);
void check_churn(int seconds);

#endif /* CHECK_H */
