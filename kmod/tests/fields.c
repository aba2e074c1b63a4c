// SPDX-License-Identifier: GPL-2.0
/*
 * Holds the table to /proc, process by process and field by field.
 *
 * /proc is read before and after the table: what did not change between must
 * be equal, what only grows must lie between.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "check.h"

#define TICK		10000000ULL	/* ns, USER_HZ is 100 */
#define MOST		8192

struct shown {
	uint32_t pid;
	char command[64];
	char state;
	uint64_t ppid, minor, major, user, system, threads, start, virtual;
	uint64_t uid, rss, swap, voluntary, involuntary, read, written;
	char cgroup[1024];
};

static size_t slurp(int pid, const char *name, char *data, size_t room)
{
	char path[64];
	ssize_t got = 0, more;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	while ((more = read(fd, data + got, room - 1 - got)) > 0)
		got += more;
	close(fd);
	data[got] = 0;
	return got;
}

static uint64_t after(const char *text, const char *line)
{
	const char *found = strstr(text, line);

	return found ? strtoull(found + strlen(line), NULL, 10) : 0;
}

static bool show(int pid, struct shown *s)
{
	char text[8192];
	size_t size;
	char *end;

	memset(s, 0, sizeof(*s));
	s->pid = pid;
	size = slurp(pid, "comm", s->command, sizeof(s->command));
	if (!size)
		return false;
	s->command[size - 1] = 0;	/* its newline */
	if (!slurp(pid, "stat", text, sizeof(text)))
		return false;
	end = strrchr(text, ')');
	MUST(end && sscanf(end + 2, "%c %lu %*d %*d %*d %*d %*u %lu %*u %lu %*u %lu %lu %*d %*d %*d %*d %lu %*d %lu %lu",
			   &s->state, &s->ppid, &s->minor, &s->major, &s->user, &s->system,
			   &s->threads, &s->start, &s->virtual) == 9);
	if (!slurp(pid, "status", text, sizeof(text)))
		return false;
	MUST(sscanf(strstr(text, "\nUid:") + 5, "%*u %lu", &s->uid) == 1);
	s->rss = after(text, "\nVmRSS:") * 1024;
	s->swap = after(text, "\nVmSwap:") * 1024;
	s->voluntary = after(text, "\nvoluntary_ctxt_switches:");
	s->involuntary = after(text, "\nnonvoluntary_ctxt_switches:");
	if (!slurp(pid, "io", text, sizeof(text)))
		return false;
	s->read = after(text, "\nread_bytes:");
	s->written = after(text, "\nwrite_bytes:");
	if (!slurp(pid, "cgroup", text, sizeof(text)))
		return false;
	end = strstr(text, "0::");
	MUST(end);
	snprintf(s->cgroup, sizeof(s->cgroup), "%s", end + 3);
	s->cgroup[strcspn(s->cgroup, "\n")] = 0;
	return true;
}

static size_t show_all(struct shown *all)
{
	DIR *folder = opendir("/proc");
	struct dirent *entry;
	size_t count = 0;

	MUST(folder);
	while ((entry = readdir(folder))) {
		int pid = atoi(entry->d_name);

		if (pid && show(pid, &all[count]))
			count++;
		MUST(count < MOST);
	}
	closedir(folder);
	return count;
}

#define EQUAL(ours, name) \
	EXPECT(b->name != a->name || (ours) == b->name, "pid %u (%s): " #name " %llu, /proc %llu", \
	       b->pid, b->command, (unsigned long long)(ours), (unsigned long long)b->name)
#define BETWEEN(ours, name) \
	EXPECT(b->name <= (ours) && (ours) <= a->name, "pid %u (%s): " #name " %llu, /proc %llu to %llu", \
	       b->pid, b->command, (unsigned long long)(ours), (unsigned long long)b->name, \
	       (unsigned long long)a->name)

static void hold(const struct table *t, const struct latido_record *r, const struct shown *b, const struct shown *a)
{
	/* Only workers show more than their 15 bytes. */
	bool kernel = r->ppid == 2 || r->pid == 2;
	char path[1024];

	EXPECT(strcmp(b->command, a->command) ||
	       (kernel ? !strncmp((char *)r->command, b->command, strlen((char *)r->command)) :
		!strcmp((char *)r->command, b->command)),
	       "pid %u: command '%.16s', /proc '%s'", b->pid, r->command, b->command);
	/* It may have run in between, and be back: then its switches tell. */
	if (b->voluntary == a->voluntary && b->involuntary == a->involuntary)
		EQUAL((char)r->state, state);
	EQUAL(r->ppid, ppid);
	EQUAL(r->uid, uid);
	EQUAL(r->threads, threads);
	EQUAL(r->start_ns / TICK, start);
	EQUAL(r->virtual_bytes, virtual);
	if (b->pid != (uint32_t)getpid())
		EQUAL(r->rss_bytes, rss);
	EQUAL(r->swap_bytes, swap);
	BETWEEN(r->user_ns / TICK, user);
	BETWEEN(r->system_ns / TICK, system);
	BETWEEN(r->minor_faults, minor);
	BETWEEN(r->major_faults, major);
	BETWEEN(r->read_bytes, read);
	BETWEEN(r->written_bytes, written);
	BETWEEN(r->voluntary_switches, voluntary);
	BETWEEN(r->involuntary_switches, involuntary);
	cgroup_path(t, r->cgroup, path, sizeof(path));
	EXPECT(strcmp(b->cgroup, a->cgroup) || !strcmp(path, b->cgroup),
	       "pid %u: cgroup %s, /proc %s", b->pid, path, b->cgroup);
	EXPECT(!r->number && !r->end_ns, "pid %u: an exit in the table", r->pid);
}

/* ---- the zoo: one of each kind that is easily told wrong ---- */

static int ready[2];

static void tell(void)
{
	MUST(write(ready[1], "", 1) == 1);
}

static void *thread_rests(void *unused)
{
	tell();
	pause();
	return unused;
}

static void *thread_ends(void *unused)
{
	burn(200000);
	return unused;
}

static void many_threads(void)
{
	pthread_attr_t small;
	pthread_t ends[100], rests;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 64 * 1024);
	for (int i = 0; i < 100; i++) {
		MUST(!pthread_create(&ends[i], &small, thread_ends, NULL));
		MUST(!pthread_create(&rests, &small, thread_rests, NULL));
	}
	for (int i = 0; i < 100; i++)
		pthread_join(ends[i], NULL);
	tell();
	pause();
}

static void *thread_execs(void *unused)
{
	execl("/proc/self/exe", "check", "rest", NULL);
	return unused;
}

static void exec_by_thread(void)
{
	pthread_t thread;

	burn(20 * 1000000);
	MUST(!pthread_create(&thread, NULL, thread_execs, NULL));
	pause();
}

static void dead_leader(void)
{
	pthread_t thread;

	MUST(!pthread_create(&thread, NULL, thread_rests, NULL));
	burn(15 * 1000000);
	pthread_exit(NULL);
}

static void nested_namespace(void)
{
	MUST(!unshare(CLONE_NEWPID));
	if (!fork()) {
		set_name("inner-init");
		tell();
		pause();
	}
	pause();
}

static void in_cgroup(void)
{
	int fd;

	mkdir("/sys/fs/cgroup/latido test", 0755);
	mkdir("/sys/fs/cgroup/latido test/in\"ner", 0755);
	fd = open("/sys/fs/cgroup/latido test/in\"ner/cgroup.procs", O_WRONLY | O_CLOEXEC);
	MUST(fd >= 0 && write(fd, "0", 1) == 1);
	close(fd);
	tell();
	pause();
}

static void other_user(void)
{
	MUST(!setgid(12345) && !setuid(12345));
	tell();
	pause();
}

static void stopped(void)
{
	tell();
	raise(SIGSTOP);
}

static void zombie(void)
{
	tell();
}

static void busy(void)
{
	tell();
	for (;;)
		burn(1000000);
}

static void faulting(void)
{
	tell();
	for (;;) {
		char *page = malloc(1 << 20);

		memset(page, 1, 1 << 20);
		free(page);
	}
}

static const struct animal {
	const char *name;
	void (*live)(void);
	int tells;
} zoo[] = {
	{ "threads", many_threads, 101 },
	{ "exec-thread", exec_by_thread, 1 },
	{ "dead-leader", dead_leader, 1 },
	{ "nested", nested_namespace, 1 },
	{ "in-cgroup", in_cgroup, 1 },
	{ "other-user", other_user, 1 },
	{ "stopped", stopped, 1 },
	{ "zombie", zombie, 1 },
	{ "busy", busy, 1 },
	{ "faulting", faulting, 1 },
	{ "quo\"te'", other_user, 1 },
	{ "back\\sl\\u0041", other_user, 1 },
	{ "new\nli\tne\x01\x7f", other_user, 1 },
	{ "\xff\xfe\x80\xc3(bad) R", other_user, 1 },
	{ "exactly-15-byte", other_user, 1 },
};

#define ANIMALS	(sizeof(zoo) / sizeof(zoo[0]))

static pid_t animals[ANIMALS];

static void open_zoo(void)
{
	char told[8];

	MUST(!pipe(ready));
	for (size_t i = 0; i < ANIMALS; i++) {
		animals[i] = fork();
		MUST(animals[i] >= 0);
		if (!animals[i]) {
			dup2(ready[1], 9);
			set_name(zoo[i].name);
			zoo[i].live();
			_exit(0);
		}
		for (int left = zoo[i].tells; left; left--)
			MUST(read(ready[0], told, 1) == 1);
	}
	usleep(300000);	/* those that told just before resting or ending do so */
}

static void close_zoo(void)
{
	int status;

	for (size_t i = 0; i < ANIMALS; i++)
		kill(animals[i], SIGKILL);
	for (size_t i = 0; i < ANIMALS; i++)
		waitpid(animals[i], &status, 0);
	close(ready[0]);
	close(ready[1]);
	while (waitpid(-1, &status, 0) > 0)
		;
	rmdir("/sys/fs/cgroup/latido test/in\"ner");
	rmdir("/sys/fs/cgroup/latido test");
}

static const struct latido_record *animal(const struct table *t, const char *name)
{
	for (size_t i = 0; i < ANIMALS; i++)
		if (!strcmp(zoo[i].name, name))
			return find_pid(t, animals[i]);
	return NULL;
}

/* That the zoo is what it is meant to be: else the comparison says little. */
static void hold_zoo(const struct table *t)
{
	const struct latido_record *r;

	for (size_t i = 0; i < ANIMALS; i++)
		MUST(find_pid(t, animals[i]));
	r = animal(t, "threads");
	EXPECT(r->threads == 101, "threads: %u", r->threads);
	EXPECT(r->user_ns + r->system_ns > 100 * 200000, "threads: the ended ones' time is missing");
	r = animal(t, "exec-thread");
	EXPECT(r->threads == 1, "exec-thread: %u threads", r->threads);
	EXPECT(r->user_ns + r->system_ns > 20 * 1000000, "exec-thread: the old leader's time is missing");
	r = animal(t, "dead-leader");
	EXPECT(r->state == 'Z' && r->threads == 2, "dead-leader: %c, %u threads", r->state, r->threads);
	EXPECT(animal(t, "zombie")->state == 'Z', "zombie: %c", animal(t, "zombie")->state);
	EXPECT(animal(t, "stopped")->state == 'T', "stopped: %c", animal(t, "stopped")->state);
	EXPECT(animal(t, "other-user")->uid == 12345, "other-user: %u", animal(t, "other-user")->uid);
}

static int by_pid(const void *a, const void *b)
{
	const struct shown *left = a, *right = b;

	return (left->pid > right->pid) - (left->pid < right->pid);
}

/* The JSON lies between two binary tables: equal where those agree. */
static void hold_json(const struct table *before, const char *text, size_t size, const struct table *after)
{
	struct row *rows = NULL;
	size_t count = 0;

	EXPECT(parse_json(text, size, &rows, &count), "%s is not JSON", JSON_FILE);
	for (size_t i = 0; i < count; i++) {
		const struct latido_record *b = find_pid(before, rows[i].record.pid), *a = find_pid(after, rows[i].record.pid);
		struct latido_record *j = &rows[i].record;
		char path[1024];

		EXPECT(!i || rows[i - 1].record.pid < rows[i].record.pid, "JSON: pid %u after %u", rows[i].record.pid, rows[i - 1].record.pid);
		if (!a || !b)
			continue;
		j->cgroup = b->cgroup;	/* the JSON has its path, which is compared below */
		EXPECT(j->start_ns == b->start_ns, "JSON: start of %u", b->pid);
		EXPECT(!memcmp(j->command, b->command, 16), "JSON: command of %u", b->pid);
		EXPECT(memcmp(a, b, sizeof(*a)) || !memcmp(j, b, sizeof(*j)), "JSON: a value of %u", b->pid);
		EXPECT(b->user_ns <= j->user_ns && j->user_ns <= a->user_ns, "JSON: user_ns of %u", b->pid);
		EXPECT(b->minor_faults <= j->minor_faults && j->minor_faults <= a->minor_faults,
		       "JSON: minor_faults of %u", b->pid);
		cgroup_path(after, a->cgroup, path, sizeof(path));
		EXPECT(a->cgroup != b->cgroup || !strcmp(path, rows[i].cgroup), "JSON: cgroup of %u: %s", b->pid,
		       rows[i].cgroup);
	}
	EXPECT(count >= ANIMALS, "JSON: %zu rows", count);
	free(rows);
}

static void check_proc(void)
{
	struct shown *before = malloc(MOST * sizeof(*before)), *after = malloc(MOST * sizeof(*after));
	size_t befores, afters, held = 0;
	struct table t;

	MUST(before && after);
	befores = show_all(before);
	read_table(BINARY_FILE, &t);
	afters = show_all(after);
	qsort(after, afters, sizeof(*after), by_pid);
	for (uint32_t i = 1; i < t.trailer->records; i++)
		EXPECT(t.records[i - 1].pid < t.records[i].pid, "pid %u after %u", t.records[i].pid,
		       t.records[i - 1].pid);
	for (size_t i = 0; i < befores; i++) {
		const struct shown *a = bsearch(&before[i], after, afters, sizeof(*after), by_pid);
		const struct latido_record *r = find_pid(&t, before[i].pid);

		if (!a || a->start != before[i].start)
			continue;
		EXPECT(r, "pid %u (%s) lived throughout and is missing", before[i].pid, before[i].command);
		if (r) {
			hold(&t, r, &before[i], a);
			held++;
		}
	}
	EXPECT(held > ANIMALS + 20, "only %zu processes compared", held);
	printf("NOTE %zu processes held to /proc, %u in the table\n", held, t.trailer->records);
	hold_zoo(&t);
	free_table(&t);
	free(before);
	free(after);
}

static void check_json(void)
{
	struct table before, after;
	char *text;
	size_t size;

	read_table(BINARY_FILE, &before);
	text = read_whole(JSON_FILE, 64 << 20, &size);
	read_table(BINARY_FILE, &after);
	hold_json(&before, text, size, &after);
	free_table(&before);
	free_table(&after);
	free(text);
}

static uint64_t json_number(const char *text, const char *name)
{
	char key[64];
	const char *found;

	snprintf(key, sizeof(key), "\"%s\":", name);
	found = strstr(text, key);
	MUST(found);
	return strtoull(found + strlen(key), NULL, 10);
}

static const char * const ram_lines[][2] = {
	{ "total_bytes", "MemTotal:" }, { "free_bytes", "MemFree:" }, { "available_bytes", "MemAvailable:" },
	{ "cached_bytes", "\nCached:" }, { "buffers_bytes", "Buffers:" }, { "shared_bytes", "Shmem:" },
	{ "slab_bytes", "Slab:" }, { "swap_free_bytes", "SwapFree:" },
};

/* Memory moves all the time: a round counts where /proc/meminfo stood still. */
static void check_ram(void)
{
	for (size_t i = 0; i < sizeof(ram_lines) / sizeof(ram_lines[0]); i++) {
		bool held = false;

		/* A kernel without swap has none to tell. */
		if (!strcmp(ram_lines[i][1], "SwapFree:") && access("/proc/swaps", F_OK))
			continue;
		for (int round = 0; round < 400 && !held; round++) {
			size_t size;
			char *before = read_whole("/proc/meminfo", 16384, &size);
			char *text = read_whole("/proc/latido_ram", 16384, &size);
			char *later = read_whole("/proc/meminfo", 16384, &size);
			uint64_t value = after(before, ram_lines[i][1]) * 1024;

			EXPECT(parse_json(text, strlen(text), NULL, NULL), "latido_ram is not JSON");
			if (value == after(later, ram_lines[i][1]) * 1024 && strstr(before, ram_lines[i][1])) {
				held = json_number(text, ram_lines[i][0]) == value;
				EXPECT(held || round < 399, "%s %llu, /proc %llu", ram_lines[i][0],
				       (unsigned long long)json_number(text, ram_lines[i][0]),
				       (unsigned long long)value);
			}
			free(before);
			free(text);
			free(later);
		}
		EXPECT(held, "%s never equalled /proc/meminfo", ram_lines[i][0]);
	}
}

static void modes_of(const char *text, const char *line, uint64_t modes[10], char separator)
{
	const char *at = strstr(text, line);

	MUST(at);
	at += strlen(line);
	for (int i = 0; i < 10; i++) {
		char *end;

		modes[i] = strtoull(at, &end, 10);
		MUST(end > at);
		at = end + (*end == separator);
	}
}

static void check_cpu(void)
{
	size_t size;
	char *before = read_whole("/proc/stat", 1 << 20, &size);
	char *text = read_whole("/proc/latido_cpu", 1 << 20, &size);
	char *later = read_whole("/proc/stat", 1 << 20, &size);
	char *load = read_whole("/proc/loadavg", 4096, &size);
	static const char * const lines[][2] = {
		{ "\"total\":[", "cpu " }, { "\"0\":[", "cpu0 " }, { "\"1\":[", "cpu1 " },
	};

	EXPECT(parse_json(text, strlen(text), NULL, NULL), "latido_cpu is not JSON");
	for (size_t i = 0; i < 3; i++) {
		uint64_t low[10], ours[10], high[10];

		if (!strstr(before, lines[i][1]) && !strstr(text, lines[i][0]))
			continue;	/* this machine has one CPU */
		modes_of(before, lines[i][1], low, ' ');
		modes_of(text, lines[i][0], ours, ',');
		modes_of(later, lines[i][1], high, ' ');
		for (int mode = 0; mode < 10; mode++)
			EXPECT(low[mode] <= ours[mode] / TICK && ours[mode] / TICK <= high[mode],
			       "%smode %d: %llu ns, /proc %llu to %llu", lines[i][1], mode,
			       (unsigned long long)ours[mode], (unsigned long long)low[mode],
			       (unsigned long long)high[mode]);
	}
	EXPECT(json_number(text, "boot_time_seconds") == after(before, "\nbtime "), "boot time");
	EXPECT(!strncmp(strstr(text, "\"load\":[") + 8, load, 4), "load: %.20s, /proc %s",
	       strstr(text, "\"load\":[") + 8, load);
	free(before);
	free(text);
	free(later);
	free(load);
}

void check_fields(void)
{
	open_zoo();
	check_proc();
	verdict("every process, field by field, against /proc");
	check_json();
	verdict("JSON and binary tables agree");
	close_zoo();
	check_ram();
	verdict("memory against /proc/meminfo");
	check_cpu();
	verdict("CPU time, load and boot time against /proc/stat and /proc/loadavg");
}

static void inside_namespace(void)
{
	struct table t;
	char path[1024];
	int fd;

	MUST(!mkdir("/tmp/proc", 0755) || errno == EEXIST);
	MUST(!mount("proc", "/tmp/proc", "proc", 0, NULL));
	if (!fork())
		pause();
	read_table("/tmp/proc/latido_procesos.bin", &t);
	EXPECT(t.trailer->records == 2, "%u processes", t.trailer->records);
	EXPECT(t.records[0].pid == 1 && t.records[0].ppid == 0, "first is %u of %u", t.records[0].pid,
	       t.records[0].ppid);
	EXPECT(t.records[1].pid == 2 && t.records[1].ppid == 1, "second is %u of %u", t.records[1].pid,
	       t.records[1].ppid);
	EXPECT(!t.header->newest_exit && !t.trailer->sums, "exits of the machine are shown");
	EXPECT(t.trailer->paths == 1, "%u cgroups are named", t.trailer->paths);
	EXPECT(cgroup_path(&t, t.records[0].cgroup, path, sizeof(path)), "its own cgroup is not named");
	fd = open("/tmp/proc/latido_procesos.exits", O_RDONLY | O_CLOEXEC);
	EXPECT(fd < 0 && errno == EPERM, "exits of the machine can be opened");
	kill(2, SIGKILL);
	umount("/tmp/proc");
	_exit(!!faults);
}

void check_namespace(void)
{
	int status = 0;
	pid_t outer = fork();

	MUST(outer >= 0);
	if (!outer) {
		MUST(!unshare(CLONE_NEWPID | CLONE_NEWNS));
		if (!fork())
			inside_namespace();
		wait(&status);
		_exit(!WIFEXITED(status) || WEXITSTATUS(status));
	}
	waitpid(outer, &status, 0);
	EXPECT(WIFEXITED(status) && !WEXITSTATUS(status), "status %x", status);
	verdict("a nested pid namespace sees its own processes, and no exits");
}

void check_form(void)
{
	struct table t;
	struct stat s;
	char *text;
	size_t size;

	read_table(BINARY_FILE, &t);
	EXPECT(t.trailer->records > 20, "%u processes", t.trailer->records);
	for (uint32_t i = 1; i < t.trailer->records; i++)
		EXPECT(t.records[i - 1].pid < t.records[i].pid, "pid %u after %u", t.records[i].pid,
		       t.records[i - 1].pid);
	free_table(&t);
	verdict("binary table: whole, pids ascend");
	set_name("\"\\\n\x01\x7f\xff,]}");
	text = read_whole(JSON_FILE, 64 << 20, &size);
	EXPECT(parse_json(text, size, NULL, NULL), "not JSON");
	free(text);
	verdict("JSON table parses, its reader's name being hostile");
	EXPECT(!stat(BINARY_FILE, &s) && (s.st_mode & 07777) == 0440 && s.st_uid == 0 && s.st_gid == 54321,
	       "mode %o, user %u, group %u", s.st_mode, s.st_uid, s.st_gid);
	EXPECT(!stat(EXITS_FILE, &s) && (s.st_mode & 07777) == 0440 && s.st_gid == 54321, "exits: %o %u", s.st_mode,
	       s.st_gid);
	verdict("files are 0440 for the group of the parameter");
}
