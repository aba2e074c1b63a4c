// SPDX-License-Identifier: GPL-2.0
/* Ends processes in every way there is, and asks that each is counted once. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "check.h"

struct used {
	uint64_t ns;
	uint64_t exits;
};

static uint64_t all_of(const struct latido_record *r)
{
	return r->user_ns + r->system_ns;
}

/* Waits for the record of a process that was reaped; counts how many it has. */
static size_t records_of(uint64_t since, pid_t pid, struct latido_record *found)
{
	uint64_t until = now_ns(CLOCK_MONOTONIC) + 20000000000ULL;
	size_t of_pid = 0;

	while (!of_pid && now_ns(CLOCK_MONOTONIC) < until) {
		size_t count;
		struct latido_record *records = read_exits(since, &count);

		for (size_t i = 0; i < count; i++) {
			if (records[i].pid != (uint32_t)pid)
				continue;
			*found = records[i];
			of_pid++;
		}
		free(records);
		usleep(10000);
	}
	return of_pid;
}

static uint64_t *shared_numbers(size_t count)
{
	void *at = mmap(NULL, count * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	MUST(at != MAP_FAILED);
	return at;
}

static void check_single(void)
{
	uint64_t since = newest_exit(), *own = shared_numbers(1), started = now_ns(CLOCK_BOOTTIME);
	struct latido_record r = { 0 };
	size_t count;
	pid_t pid = fork();

	if (!pid) {
		set_name("lived-3-ms");
		burn(3000000);
		*own = now_ns(CLOCK_PROCESS_CPUTIME_ID);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	count = records_of(since, pid, &r);
	EXPECT(count == 1, "%zu records", count);
	EXPECT(all_of(&r) >= *own, "%llu ns recorded, %llu by its own clock", (unsigned long long)all_of(&r),
	       (unsigned long long)*own);
	/* It may run on a while after its end, until another has the CPU: by then it is recorded. */
	EXPECT(all_of(&r) <= now_ns(CLOCK_BOOTTIME) - started, "%llu ns used in %llu", (unsigned long long)all_of(&r),
	       (unsigned long long)(now_ns(CLOCK_BOOTTIME) - started));
	EXPECT(r.ppid == (uint32_t)getpid(), "parent %u", r.ppid);
	EXPECT(!memcmp(r.command, "lived-3-ms", 11), "command %.16s", r.command);
	EXPECT(r.state == 'X' && r.number > since, "state %c, number %llu", r.state, (unsigned long long)r.number);
	EXPECT(started <= r.start_ns && r.start_ns < r.end_ns && r.end_ns <= now_ns(CLOCK_BOOTTIME), "start, end");
	EXPECT(r.minor_faults, "no faults");
	verdict("a process of 3 ms is recorded once, with all its time");
}

static void check_zombie(void)
{
	uint64_t since = newest_exit();
	struct latido_record r = { 0 };
	struct table t;
	siginfo_t info;
	size_t count;
	pid_t pid = fork();

	if (!pid) {
		burn(5000000);
		_exit(0);
	}
	MUST(!waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
	usleep(200000);
	read_table(BINARY_FILE, &t);
	EXPECT(find_pid(&t, pid) && find_pid(&t, pid)->state == 'Z', "the zombie is not in the table");
	free_table(&t);
	free(read_exits(since, &count));
	EXPECT(!count, "%zu exits before it was reaped", count);
	waitpid(pid, NULL, 0);
	count = records_of(since, pid, &r);
	EXPECT(count == 1, "%zu records", count);
	EXPECT(all_of(&r) >= 5000000, "%llu ns", (unsigned long long)all_of(&r));
	read_table(BINARY_FILE, &t);
	EXPECT(!find_pid(&t, pid), "in the table though it is recorded");
	free_table(&t);
	verdict("a zombie is in the table until it is reaped, then recorded once");
}

static void *thread_execs_true(void *unused)
{
	burn(4000000);
	execl("/proc/self/exe", "check", "true", NULL);
	return unused;
}

static void *thread_burns(void *unused)
{
	burn(2000000);
	return unused;
}

static void *thread_waits(void *unused)
{
	pause();
	return unused;
}

static void check_exec(void)
{
	uint64_t since = newest_exit();
	struct latido_record r = { 0 };
	pthread_t thread;
	size_t count;
	pid_t pid = fork();

	if (!pid) {
		burn(20000000);
		MUST(!pthread_create(&thread, NULL, thread_execs_true, NULL));
		pause();
	}
	waitpid(pid, NULL, 0);
	count = records_of(since, pid, &r);
	EXPECT(count == 1, "%zu records", count);
	EXPECT(all_of(&r) >= 20000000, "%llu ns: the old leader's are missing", (unsigned long long)all_of(&r));
	verdict("an exec by a thread that is not the leader: one process, one record");
}

static void check_groups(int processes)
{
	uint64_t since = newest_exit();
	struct latido_record r = { 0 };
	size_t twice = 0, never = 0;
	pid_t pids[processes];

	for (int i = 0; i < processes; i++) {
		pids[i] = fork();
		if (!pids[i]) {
			pthread_t threads[8];

			for (int k = 0; k < 8; k++)
				MUST(!pthread_create(&threads[k], NULL, k % 2 ? thread_burns : thread_waits, NULL));
			if (i % 2)
				pthread_detach(threads[0]);
			pthread_join(threads[1], NULL);
			if (i % 3 == 0)	/* the others exit together with the leader */
				kill(getpid(), SIGKILL);
			_exit(0);
		}
	}
	for (int i = 0; i < processes; i++)
		waitpid(pids[i], NULL, 0);
	for (int i = 0; i < processes; i++) {
		size_t count = records_of(since, pids[i], &r);

		twice += count > 1;
		never += !count;
		EXPECT(all_of(&r) >= 2000000, "pid %d: %llu ns", pids[i], (unsigned long long)all_of(&r));
	}
	EXPECT(!twice && !never, "%zu recorded twice, %zu never", twice, never);
	verdict("processes whose threads exit at once are recorded once each");
}

static void *outlives_leader(void *unused)
{
	usleep(20000);
	burn(6000000);
	return unused;
}

static void check_dead_leader(void)
{
	uint64_t since = newest_exit();
	struct latido_record r = { 0 };
	pthread_t thread;
	size_t count;
	pid_t pid = fork();

	if (!pid) {
		MUST(!pthread_create(&thread, NULL, outlives_leader, NULL));
		pthread_exit(NULL);
	}
	waitpid(pid, NULL, 0);
	count = records_of(since, pid, &r);
	EXPECT(count == 1, "%zu records", count);
	verdict("a leader that exits before its threads: recorded once, at the end");
}

static void check_gone_cgroup(void)
{
	const char *folder = "/sys/fs/cgroup/gone-when-read";
	uint64_t since = newest_exit();
	struct latido_record r = { 0 };
	char path[1024];
	struct table t;
	pid_t pid;
	int fd;

	MUST(!mkdir(folder, 0755));
	pid = fork();
	if (!pid) {
		fd = open("/sys/fs/cgroup/gone-when-read/cgroup.procs", O_WRONLY);
		MUST(fd >= 0 && write(fd, "0", 1) == 1);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	for (int i = 0; rmdir(folder) && i < 1000; i++)
		usleep(1000);
	EXPECT(records_of(since, pid, &r) == 1, "not one record");
	read_table(BINARY_FILE, &t);
	cgroup_path(&t, r.cgroup, path, sizeof(path));
	EXPECT(!strcmp(path, "/gone-when-read"), "its cgroup is named '%s'", path);
	free_table(&t);
	verdict("an exit names its cgroup though that is gone");
}

static void check_positions(void)
{
	char data[sizeof(struct latido_record) * 4];
	int fd = open(EXITS_FILE, O_RDONLY | O_CLOEXEC);
	struct latido_record *r = (void *)data;
	uint64_t newest = newest_exit();

	MUST(fd >= 0 && newest > 8);
	EXPECT(pread(fd, data, sizeof(data), 1) == -1, "a position between records is read");
	EXPECT(pread(fd, data, 8, sizeof(*r)) == -1, "a part of a record is read");
	EXPECT(pread(fd, data, sizeof(data), (newest - 2) * sizeof(*r)) >= (ssize_t)(3 * sizeof(*r)), "less than three");
	EXPECT(r[0].number == newest - 2 && r[2].number == newest, "numbers %llu to %llu",
	       (unsigned long long)r[0].number, (unsigned long long)r[2].number);
	EXPECT(pread(fd, data, sizeof(data), (newest + 1000) * sizeof(*r)) == 0, "records of the future");
	EXPECT(pread(fd, data, sizeof(data) - 1, (newest - 8) * sizeof(*r)) == 3 * sizeof(*r), "not whole records");
	close(fd);
	verdict("exit records are read by position, whole ones only");
}

void check_exits(void)
{
	check_single();
	check_zombie();
	check_exec();
	check_groups(24);
	check_dead_leader();
	check_gone_cgroup();
	check_positions();
}

/* What someone who polls /proc ten times a second sees of the same storm. */
static volatile bool polling;

static void *poll_proc(void *seen)
{
	uint64_t *ticks = seen;

	while (polling) {
		DIR *folder = opendir("/proc");
		struct dirent *entry;

		MUST(folder);
		while ((entry = readdir(folder))) {
			unsigned long user, system;
			char path[300], text[512];
			ssize_t got;
			int fd;

			if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
				continue;
			snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
			fd = open(path, O_RDONLY | O_CLOEXEC);
			if (fd < 0)
				continue;
			got = read(fd, text, sizeof(text) - 1);
			close(fd);
			text[got > 0 ? got : 0] = 0;
			if (!strstr(text, "(storm)"))
				continue;
			if (sscanf(strrchr(text, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
				   &user, &system) == 2 && user + system > ticks[atoi(entry->d_name) % 65536])
				ticks[atoi(entry->d_name) % 65536] = user + system;
		}
		closedir(folder);
		usleep(100000);
	}
	return NULL;
}

static uint64_t busy_ticks(void)
{
	unsigned long user, nice, system, idle, wait, irq, softirq;
	size_t size;
	char *text = read_whole("/proc/stat", 1 << 20, &size);

	MUST(sscanf(text, "cpu %lu %lu %lu %lu %lu %lu %lu", &user, &nice, &system, &idle, &wait, &irq, &softirq) == 7);
	free(text);
	return user + nice + system + irq + softirq;
}

static uint64_t living_ns(const struct table *t)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < t->trailer->records; i++)
		sum += all_of(&t->records[i]);
	return sum;
}

static struct used sums_of(const struct table *t, const char *command)
{
	struct used used = { 0 };

	for (uint32_t i = 0; i < t->trailer->sums; i++) {
		if (command && strncmp((char *)t->sums[i].command, command, 16))
			continue;
		used.ns += t->sums[i].user_ns + t->sums[i].system_ns;
		used.exits += t->sums[i].exits;
	}
	return used;
}

/* Waits until so many exits of a command more than before are in the sums. */
static void await_sum(const struct table *before, const char *command, uint64_t exits, struct table *after)
{
	uint64_t until = now_ns(CLOCK_MONOTONIC) + 20000000000ULL, came;

	for (;;) {
		read_table(BINARY_FILE, after);
		came = sums_of(after, command).exits - sums_of(before, command).exits;
		if (came >= exits || now_ns(CLOCK_MONOTONIC) > until)
			break;
		free_table(after);
		usleep(10000);
	}
	EXPECT(came == exits, "%llu of %llu exits came", (unsigned long long)came, (unsigned long long)exits);
}

static void run_storm(int processes, uint64_t each_ns, const char *name, uint64_t *own)
{
	int running = 0;

	for (int i = 0; i < processes; i++) {
		pid_t pid = fork();

		MUST(pid >= 0);
		if (!pid) {
			set_name(name);
			if (each_ns)
				burn(each_ns);
			own[i] = now_ns(CLOCK_PROCESS_CPUTIME_ID);
			_exit(0);
		}
		if (++running == 8) {
			wait(NULL);
			running--;
		}
	}
	while (running--)
		wait(NULL);
}

static uint64_t total(const uint64_t *numbers, int count)
{
	uint64_t sum = 0;

	for (int i = 0; i < count; i++)
		sum += numbers[i];
	return sum;
}

void check_storm(int processes, uint64_t each_ns)
{
	uint64_t *own = shared_numbers(processes), *ticks = shared_numbers(65536), since = newest_exit(), polled, wall;
	uint64_t recorded = 0, of_storm = 0, attributed, by_stat;
	struct latido_record *records;
	struct table before, after;
	pthread_t poller;
	size_t count;

	polling = true;
	MUST(!pthread_create(&poller, NULL, poll_proc, ticks));
	read_table(BINARY_FILE, &before);
	wall = now_ns(CLOCK_MONOTONIC);
	by_stat = busy_ticks();
	run_storm(processes, each_ns, "storm", own);
	await_sum(&before, "storm", processes, &after);
	by_stat = busy_ticks() - by_stat;
	wall = now_ns(CLOCK_MONOTONIC) - wall;
	polling = false;
	pthread_join(poller, NULL);
	records = read_exits(since, &count);
	for (size_t i = 0; i < count; i++) {
		if (memcmp(records[i].command, "storm", 6))
			continue;
		of_storm++;
		recorded += all_of(&records[i]);
	}
	EXPECT(of_storm == (uint64_t)processes, "%llu records of %d processes", (unsigned long long)of_storm, processes);
	EXPECT(recorded >= total(own, processes), "%llu ns recorded, %llu by their own clocks",
	       (unsigned long long)recorded, (unsigned long long)total(own, processes));
	attributed = sums_of(&after, NULL).ns + living_ns(&after) - sums_of(&before, NULL).ns - living_ns(&before);
	EXPECT(attributed >= by_stat * 10000000 / 100 * 99, "%llu ns attributed, /proc/stat %llu",
	       (unsigned long long)attributed, (unsigned long long)by_stat * 10000000);
	/* A virtual machine that is kept waiting misses ticks, so /proc/stat may say less; the clock on the wall not. */
	EXPECT(attributed <= wall * sysconf(_SC_NPROCESSORS_ONLN) / 100 * 101, "%llu ns attributed in %llu of wall time",
	       (unsigned long long)attributed, (unsigned long long)wall);
	polled = total(ticks, 65536) * 10000000;
	printf("NOTE storm: %d processes, %.3f s by their own clocks, %.3f s recorded, %.3f s seen by polling /proc\n",
	       processes, total(own, processes) / 1e9, recorded / 1e9, polled / 1e9);
	printf("NOTE storm: %.3f s attributed, %.2f s in /proc/stat, %.3f s on the wall of each CPU\n",
	       attributed / 1e9, by_stat / 100.0, wall / 1e9);
	free(records);
	free_table(&before);
	free_table(&after);
	verdict("a storm of short processes: all their time is accounted for");
}

void check_burst(int processes)
{
	uint64_t *own = shared_numbers(processes), since = newest_exit(), in_ring = 0, ring_ns = 0;
	struct latido_record *records;
	struct table before, after;
	struct used a, b;
	size_t count;

	read_table(BINARY_FILE, &before);
	run_storm(processes, 0, "burst", own);
	await_sum(&before, "burst", processes, &after);
	b = sums_of(&before, "burst");
	a = sums_of(&after, "burst");
	records = read_exits(since, &count);
	for (size_t i = 0; i < count; i++) {
		if (!memcmp(records[i].command, "burst", 6)) {
			in_ring++;
			ring_ns += all_of(&records[i]);
		}
	}
	EXPECT(a.ns - b.ns >= total(own, processes), "%llu ns in the sums, %llu by their own clocks",
	       (unsigned long long)(a.ns - b.ns), (unsigned long long)total(own, processes));
	EXPECT(sums_of(&after, NULL).exits == after.header->newest_exit, "%llu in all sums, newest %llu",
	       (unsigned long long)sums_of(&after, NULL).exits, (unsigned long long)after.header->newest_exit);
	if (after.header->oldest_exit <= since + 1)
		EXPECT(ring_ns == a.ns - b.ns, "%llu ns in the ring, %llu in the sums", (unsigned long long)ring_ns,
		       (unsigned long long)(a.ns - b.ns));
	else
		EXPECT(in_ring < (uint64_t)processes && ring_ns < a.ns - b.ns, "the ring did not overflow");
	printf("NOTE burst: %d processes, %llu still in the ring, %llu ns in the sums\n", processes,
	       (unsigned long long)in_ring, (unsigned long long)(a.ns - b.ns));
	free(records);
	free_table(&before);
	free_table(&after);
	verdict(processes > 1000 ? "a burst that overflows the ring is whole in the sums" :
		"a burst that fits the ring: ring and sums agree to the ns");
}

void check_keys(int processes)
{
	uint64_t since = newest_exit();
	struct table t;

	for (int i = 0; i < processes; i++) {
		pid_t pid = fork();

		if (!pid) {
			char name[16];

			snprintf(name, sizeof(name), "key-%d", i);
			set_name(name);
			_exit(0);
		}
		waitpid(pid, NULL, 0);
	}
	EXPECT(await_exit(since + processes), "exits are missing");
	read_table(BINARY_FILE, &t);
	EXPECT(t.trailer->sums == 1024, "%u sums", t.trailer->sums);
	EXPECT(t.sums[0].flags == LATIDO_SUM_REST && t.sums[0].exits, "no rest");
	EXPECT(sums_of(&t, NULL).exits == t.header->newest_exit, "%llu in all sums, newest %llu",
	       (unsigned long long)sums_of(&t, NULL).exits, (unsigned long long)t.header->newest_exit);
	free_table(&t);
	verdict("more kinds than there are sums: the rest is one sum, none is lost");
}
