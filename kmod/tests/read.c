// SPDX-License-Identifier: GPL-2.0
/* Reads the modules' files as any user would, and holds their form. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>
#include <sys/prctl.h>

#include "check.h"

__thread int faults;
static int failed;

void verdict(const char *name)
{
	printf("%s %s\n", faults ? "FAIL" : "PASS", name);
	fflush(stdout);
	failed += !!faults;
	faults = 0;
}

int failed_checks(void)
{
	return failed;
}

char *read_whole(const char *path, size_t room, size_t *size)
{
	char *data = malloc(room);
	ssize_t got;
	int fd;

	MUST(data);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	MUST(fd >= 0);
	got = read(fd, data, room - 1);
	MUST(got >= 0 && (size_t)got < room - 1);
	data[got] = 0;
	close(fd);
	*size = got;
	return data;
}

void read_table(const char *path, struct table *t)
{
	uint64_t expected;
	char *at;

	t->data = read_whole(path, 64 << 20, &t->size);
	MUST(t->size >= sizeof(*t->header) + sizeof(*t->trailer));
	t->header = (void *)t->data;
	t->trailer = (void *)(t->data + t->size - sizeof(*t->trailer));
	EXPECT(!memcmp(t->header->magic, LATIDO_HEAD, 8), "no header");
	EXPECT(!memcmp(t->trailer->magic, LATIDO_TAIL, 8), "no trailer: cut off");
	EXPECT(t->header->version == LATIDO_VERSION, "version %u", t->header->version);
	EXPECT(t->header->header_bytes == sizeof(*t->header), "header of %u", t->header->header_bytes);
	EXPECT(t->header->record_bytes == sizeof(*t->records), "record of %u", t->header->record_bytes);
	EXPECT(t->header->sum_bytes == sizeof(*t->sums), "sum of %u", t->header->sum_bytes);
	EXPECT(t->trailer->trailer_bytes == sizeof(*t->trailer), "trailer of %u", t->trailer->trailer_bytes);
	at = t->data + sizeof(*t->header);
	t->records = (void *)at;
	at += t->trailer->records * sizeof(*t->records);
	t->sums = (void *)at;
	at += t->trailer->sums * sizeof(*t->sums);
	t->paths = at;
	expected = at - t->data + t->trailer->paths_bytes + sizeof(*t->trailer);
	EXPECT(t->size == expected && t->trailer->total_bytes == expected,
	       "%zu bytes, trailer says %llu, parts say %llu", t->size,
	       (unsigned long long)t->trailer->total_bytes, (unsigned long long)expected);
	MUST(t->size == expected);
}

void free_table(struct table *t)
{
	free(t->data);
}

const struct latido_record *find_pid(const struct table *t, uint32_t pid)
{
	for (uint32_t i = 0; i < t->trailer->records; i++)
		if (t->records[i].pid == pid)
			return &t->records[i];
	return NULL;
}

size_t cgroup_path(const struct table *t, uint64_t id, char *path, size_t room)
{
	const char *at = t->paths, *end = at + t->trailer->paths_bytes;

	path[0] = 0;
	while (at < end) {
		const struct latido_path *p = (const void *)at;

		MUST(at + sizeof(*p) + p->length <= end && p->length < room);
		if (p->cgroup == id) {
			memcpy(path, at + sizeof(*p), p->length);
			path[p->length] = 0;
			return p->length;
		}
		at += sizeof(*p) + (p->length + 7) / 8 * 8;
	}
	return 0;
}

struct latido_record *read_exits(uint64_t since, size_t *count)
{
	size_t room = 64 << 20, size = 0;
	char *data = malloc(room);
	ssize_t got;
	int fd = open(EXITS_FILE, O_RDONLY | O_CLOEXEC);

	MUST(data && fd >= 0);
	got = pread(fd, data, room, (since + 1) * sizeof(struct latido_record));
	MUST(got >= 0 && got % sizeof(struct latido_record) == 0);
	size = got;
	close(fd);
	*count = size / sizeof(struct latido_record);
	return (void *)data;
}

uint64_t newest_exit(void)
{
	struct latido_header header;
	int fd = open(BINARY_FILE, O_RDONLY | O_CLOEXEC);

	MUST(fd >= 0 && read(fd, &header, sizeof(header)) == sizeof(header));
	close(fd);
	return header.newest_exit;
}

bool await_exit(uint64_t number)
{
	uint64_t until = now_ns(CLOCK_MONOTONIC) + 20000000000ULL;

	while (newest_exit() < number) {
		if (now_ns(CLOCK_MONOTONIC) > until)
			return false;
		usleep(10000);
	}
	return true;
}

uint64_t now_ns(int clock)
{
	struct timespec t;

	MUST(!clock_gettime(clock, &t));
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

void burn(uint64_t ns)
{
	uint64_t until = now_ns(CLOCK_THREAD_CPUTIME_ID) + ns;

	while (now_ns(CLOCK_THREAD_CPUTIME_ID) < until)
		;
}

void set_name(const char *name)
{
	MUST(!prctl(PR_SET_NAME, name));
}
