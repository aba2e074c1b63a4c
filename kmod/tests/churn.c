// SPDX-License-Identifier: GPL-2.0
/* Reads while processes come, go, exec, thread and rename themselves. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#include <sys/wait.h>

#include "check.h"

#define WITNESSES	20

static pid_t witnesses[WITNESSES];

static void forks(void)
{
	for (;;) {
		if (!fork())
			_exit(0);
		wait(NULL);
	}
}

static void execs(void)
{
	for (;;) {
		pid_t pid = fork();

		if (!pid) {
			execl("/proc/self/exe", "check", "true", NULL);
			_exit(1);
		}
		waitpid(pid, NULL, 0);
	}
}

static void *thread_ends(void *unused)
{
	return unused;
}

static void threads(void)
{
	for (;;) {
		pthread_t some[8];

		for (int i = 0; i < 8; i++)
			MUST(!pthread_create(&some[i], NULL, thread_ends, NULL));
		for (int i = 0; i < 8; i++)
			pthread_join(some[i], NULL);
	}
}

static void *thread_execs(void *unused)
{
	execl("/proc/self/exe", "check", "true", NULL);
	return unused;
}

static void thread_exec(void)
{
	for (;;) {
		pid_t pid = fork();

		if (!pid) {
			pthread_t thread;

			MUST(!pthread_create(&thread, NULL, thread_execs, NULL));
			pause();
		}
		waitpid(pid, NULL, 0);
	}
}

static void renames(void)
{
	unsigned int seed = 1;

	for (;;) {
		char name[16];

		for (int i = 0; i < 15; i++)
			name[i] = 1 + rand_r(&seed) % 255;
		name[15] = 0;
		set_name(name);
	}
}

static void unreaped(void)
{
	for (;;) {
		for (int i = 0; i < 20; i++)
			if (!fork())
				_exit(0);
		usleep(2000);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

static void hold_table(void)
{
	struct table t;
	int missing = WITNESSES;

	read_table(BINARY_FILE, &t);
	for (uint32_t i = 0; i < t.trailer->records; i++) {
		EXPECT(!i || t.records[i - 1].pid < t.records[i].pid, "pid %u after %u", t.records[i].pid,
		       t.records[i - 1].pid);
		EXPECT(t.records[i].pid, "pid 0");
		for (int w = 0; w < WITNESSES; w++)
			missing -= t.records[i].pid == (uint32_t)witnesses[w];
	}
	EXPECT(!missing, "%d that lived throughout are missing", missing);
	free_table(&t);
}

static void hold_json(void)
{
	size_t size;
	char *text = read_whole(JSON_FILE, 64 << 20, &size);

	EXPECT(parse_json(text, size, NULL, NULL), "not JSON");
	free(text);
}

/* As `cat` would: the table comes in parts, and pids still ascend. */
static void hold_parts(void)
{
	char *data = malloc(16 << 20);
	size_t size = 0;
	ssize_t got;
	struct row *rows;
	size_t count;
	int fd = open(JSON_FILE, O_RDONLY | O_CLOEXEC);

	MUST(data && fd >= 0);
	while ((got = read(fd, data + size, 1000)) > 0)
		size += got;
	close(fd);
	EXPECT(parse_json(data, size, &rows, &count), "parts of 1000 bytes are not JSON");
	for (size_t i = 1; i < count; i++)
		EXPECT(rows[i - 1].record.pid < rows[i].record.pid, "pid %u after %u", rows[i].record.pid, rows[i - 1].record.pid);
	free(rows);
	free(data);
}

static void hold_exits(void)
{
	static uint64_t since;
	size_t count;
	struct latido_record *records = read_exits(since, &count);

	for (size_t i = 0; i < count; i++) {
		EXPECT(records[i].number > since, "exit %llu after %llu", (unsigned long long)records[i].number,
		       (unsigned long long)since);
		EXPECT(records[i].pid && records[i].state == 'X', "exit of pid %u, %c", records[i].pid,
		       records[i].state);
		since = records[i].number;
	}
	free(records);
}

static void (*const churners[])(void) = { forks, execs, threads, thread_exec, renames, unreaped };
static void (*const readers[])(void) = { hold_table, hold_json, hold_parts, hold_exits };

#define CHURNERS	(sizeof(churners) / sizeof(churners[0]))
#define READERS		(sizeof(readers) / sizeof(readers[0]))

void check_churn(int seconds)
{
	uint64_t until = now_ns(CLOCK_MONOTONIC) + seconds * 1000000000ULL;
	pid_t churning[CHURNERS], reading[READERS];
	int status;

	for (int i = 0; i < WITNESSES; i++) {
		witnesses[i] = fork();
		if (!witnesses[i]) {
			pause();
			_exit(0);
		}
	}
	for (size_t i = 0; i < CHURNERS; i++) {
		churning[i] = fork();
		if (!churning[i]) {
			setpgid(0, 0);
			churners[i]();
		}
		setpgid(churning[i], churning[i]);
	}
	for (size_t i = 0; i < READERS; i++) {
		reading[i] = fork();
		if (!reading[i]) {
			unsigned long rounds = 0;

			while (now_ns(CLOCK_MONOTONIC) < until) {
				readers[i]();
				rounds++;
			}
			printf("NOTE churn: reader %zu went %lu rounds\n", i, rounds);
			fflush(stdout);
			_exit(faults ? 1 : rounds ? 0 : 2);
		}
	}
	for (size_t i = 0; i < READERS; i++) {
		waitpid(reading[i], &status, 0);
		EXPECT(WIFEXITED(status) && !WEXITSTATUS(status), "reader %zu: status %x", i, status);
	}
	for (size_t i = 0; i < CHURNERS; i++)
		kill(-churning[i], SIGKILL);
	for (size_t i = 0; i < CHURNERS; i++)
		waitpid(churning[i], NULL, 0);
	for (int i = 0; i < WITNESSES; i++)
		kill(witnesses[i], SIGKILL);
	while (wait(NULL) > 0)
		;
	verdict("four readers under churn: every document whole, pids ascend, no witness missed");
}
