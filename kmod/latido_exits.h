/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Processes that ended: a ring of their records, numbered, and their sums.
 *
 * A process is recorded when the kernel frees its last task
 * (sched_process_free), not when that task starts to exit. Only then has the
 * scheduler added its last slice: until a task is switched out for good,
 * sum_exec_runtime lacks all since the last tick, which for a process of 3 ms
 * may be all it used. And until then a zombie is in the table, so nothing is
 * in both, or counted twice. Parent and time of end are gone by then: they
 * are noted at sched_process_exit.
 *
 * What the ring no longer holds is not lost: the sums by command, user and
 * cgroup hold every exit, so a reader that comes late takes their growth.
 * Their number is bounded too; the least recent is folded into the rest.
 */
#ifndef LATIDO_EXITS_H
#define LATIDO_EXITS_H

#include <linux/cred.h>
#include <linux/hash.h>
#include <linux/jhash.h>
#include <linux/list.h>
#include <linux/log2.h>
#include <linux/pid_namespace.h>
#include <linux/spinlock.h>
#include <linux/timekeeping.h>
#include <linux/tracepoint.h>
#include <linux/vmalloc.h>

#include "latido_account.h"
#include "latido_cgroups.h"
#include "latido_record.h"

#define SUM_SLOTS	1024	/* the first is the rest */
#define SUM_BUCKETS	1024
#define SUM_SAMPLE	8
#define PARENT_SLOTS	16384

struct exit_sum {
	struct hlist_node node;
	u64 latest;
	struct latido_sum sum;
};

/* Found again by the address of its signal_struct, which lives until free. */
struct exit_parent {
	const struct signal_struct *signal;
	u64 end_ns;
	u32 ppid;
};

struct exit_span {
	u64 oldest;
	u64 newest;
};

static DEFINE_RAW_SPINLOCK(exit_lock);
static struct latido_record *exit_ring;
static unsigned int exit_ring_size;	/* a power of two */
static u64 exit_newest;
static u64 exit_loaded_ns;
static struct exit_sum *exit_sums;
static unsigned int exit_sums_used;
static unsigned int exit_sums_hand;
static struct hlist_head exit_sum_buckets[SUM_BUCKETS];
static struct exit_parent *exit_parents;

static struct exit_span exit_span_locked(void)
{
	struct exit_span span = { .oldest = 1, .newest = exit_newest };

	if (exit_newest > exit_ring_size)
		span.oldest = exit_newest - exit_ring_size + 1;
	return span;
}

/* Copies records numbered *from and later, or later than that if those fell
 * out of the ring; *from becomes the number that follows the last one copied.
 */
static unsigned int take_exits(u64 *from, struct latido_record *to, unsigned int room)
{
	struct exit_span span;
	unsigned long flags;
	unsigned int taken;

	raw_spin_lock_irqsave(&exit_lock, flags);
	span = exit_span_locked();
	*from = max(*from, span.oldest);
	for (taken = 0; taken < room && *from <= span.newest; taken++)
		to[taken] = exit_ring[(*from)++ & (exit_ring_size - 1)];
	raw_spin_unlock_irqrestore(&exit_lock, flags);
	return taken;
}

/* Copies all sums, and the span of the ring at the same moment. */
static unsigned int copy_sums(struct latido_sum *to, struct exit_span *span)
{
	unsigned long flags;
	unsigned int i;

	raw_spin_lock_irqsave(&exit_lock, flags);
	*span = exit_span_locked();
	for (i = 0; i < exit_sums_used; i++)
		to[i] = exit_sums[i].sum;
	raw_spin_unlock_irqrestore(&exit_lock, flags);
	return i;
}

static struct exit_span exits_span(void)
{
	struct exit_span span;
	unsigned long flags;

	raw_spin_lock_irqsave(&exit_lock, flags);
	span = exit_span_locked();
	raw_spin_unlock_irqrestore(&exit_lock, flags);
	return span;
}

static void add_known(u64 *sum, u64 value)
{
	*sum = value == LATIDO_UNKNOWN ? value : *sum + value;
}

static void add_sum(struct latido_sum *to, const struct latido_sum *from)
{
	if (!to->since)
		to->since = from->since;
	to->exits += from->exits;
	to->user_ns += from->user_ns;
	to->system_ns += from->system_ns;
	to->minor_faults += from->minor_faults;
	to->major_faults += from->major_faults;
	add_known(&to->read_bytes, from->read_bytes);
	add_known(&to->written_bytes, from->written_bytes);
	to->voluntary_switches += from->voluntary_switches;
	to->involuntary_switches += from->involuntary_switches;
}

static void record_as_sum(const struct latido_record *record, struct latido_sum *sum)
{
	*sum = (struct latido_sum){
		.since = record->number,
		.exits = 1,
		.user_ns = record->user_ns,
		.system_ns = record->system_ns,
		.minor_faults = record->minor_faults,
		.major_faults = record->major_faults,
		.read_bytes = record->read_bytes,
		.written_bytes = record->written_bytes,
		.voluntary_switches = record->voluntary_switches,
		.involuntary_switches = record->involuntary_switches,
		.cgroup = record->cgroup,
		.uid = record->uid,
	};
	memcpy(sum->command, record->command, sizeof(sum->command));
}

static struct hlist_head *sum_bucket(const struct latido_sum *key)
{
	u32 hash = jhash(key->command, sizeof(key->command),
			 key->uid ^ hash_64(key->cgroup, 32));

	return &exit_sum_buckets[hash % SUM_BUCKETS];
}

static bool same_key(const struct latido_sum *a, const struct latido_sum *b)
{
	return a->uid == b->uid && a->cgroup == b->cgroup &&
	       !memcmp(a->command, b->command, sizeof(a->command));
}

static struct exit_sum *find_sum(const struct latido_sum *key)
{
	struct exit_sum *sum;

	hlist_for_each_entry(sum, sum_bucket(key), node)
		if (same_key(&sum->sum, key))
			return sum;
	return NULL;
}

/* Of a few in turn the least recent goes: near enough, in bounded time. */
static struct exit_sum *fold_least_recent(void)
{
	struct exit_sum *least = NULL;
	int i;

	for (i = 0; i < SUM_SAMPLE; i++) {
		struct exit_sum *sum = &exit_sums[1 + exit_sums_hand];

		exit_sums_hand = (exit_sums_hand + 1) % (SUM_SLOTS - 1);
		if (!least || sum->latest < least->latest)
			least = sum;
	}
	hlist_del(&least->node);
	add_sum(&exit_sums[0].sum, &least->sum);
	return least;
}

static void count_exit(const struct latido_sum *one)
{
	struct exit_sum *sum = find_sum(one);

	if (sum) {
		add_sum(&sum->sum, one);
	} else {
		sum = exit_sums_used < SUM_SLOTS ?
			&exit_sums[exit_sums_used++] : fold_least_recent();
		sum->sum = *one;
		hlist_add_head(&sum->node, sum_bucket(one));
	}
	sum->latest = one->since;
}

static struct exit_parent *parent_slot(const struct signal_struct *signal)
{
	return &exit_parents[hash_ptr(signal, ilog2(PARENT_SLOTS))];
}

/* Two that end at once may want one place: the earlier has no parent then. */
static void note_parent(struct task_struct *task)
{
	struct exit_parent *slot = parent_slot(task->signal);
	struct exit_parent noted = {
		.signal = task->signal,
		.end_ns = ktime_get_boottime_ns(),
		.ppid = task_ppid_nr(task),
	};
	unsigned long flags;

	raw_spin_lock_irqsave(&exit_lock, flags);
	*slot = noted;
	raw_spin_unlock_irqrestore(&exit_lock, flags);
}

static void recall_parent(const struct signal_struct *signal, struct latido_record *record)
{
	struct exit_parent *slot = parent_slot(signal);

	if (slot->signal != signal)
		return;
	record->ppid = slot->ppid;
	record->end_ns = slot->end_ns;
	slot->signal = NULL;
}

/*
 * By now signal_struct holds every thread as it was at its release, and the
 * leader has run its last: where it was alone its own clock is exact.
 */
static void fill_exit(struct task_struct *leader, struct latido_record *record)
{
	struct usage usage;

	ended_threads(leader->signal, &usage);
	usage.runtime = max(usage.runtime, leader->se.sum_exec_runtime);
	fill_usage(leader->signal, &usage, record);
	record->start_ns = leader->start_boottime;
	record->end_ns = ktime_get_boottime_ns();
	record->voluntary_switches = leader->nvcsw;
	record->involuntary_switches = leader->nivcsw;
	record->pid = leader->tgid;
	record->uid = from_kuid(&init_user_ns, task_euid(leader));
	record->cgroup = task_cgroup_id(leader, NULL);
	record->state = 'X';
	strscpy_pad(record->command, leader->comm, sizeof(record->command));
}

static void record_exit(struct task_struct *leader)
{
	struct latido_record record = { 0 };
	struct latido_sum one;
	unsigned long flags;

	rcu_read_lock();
	fill_exit(leader, &record);
	rcu_read_unlock();

	raw_spin_lock_irqsave(&exit_lock, flags);
	recall_parent(leader->signal, &record);
	record.number = ++exit_newest;
	exit_ring[record.number & (exit_ring_size - 1)] = record;
	record_as_sum(&record, &one);
	count_exit(&one);
	raw_spin_unlock_irqrestore(&exit_lock, flags);
}

/*
 * Several threads may pass here after the last of them was counted out; they
 * note the same. The newest kernels say themselves whether a thread was last.
 */
#ifdef HAVE_EXIT_GROUP_DEAD
static void on_exit(void *data, struct task_struct *task, bool group_dead)
#else
static void on_exit(void *data, struct task_struct *task)
#endif
{
	if (!atomic_read(&task->signal->live))
		note_parent(task);
}

/*
 * A leader that another thread replaced by exec is no leader any more: the
 * process lives on in the other, and its time is in signal_struct.
 */
static void on_free(void *data, struct task_struct *task)
{
	if (thread_group_leader(task))
		record_exit(task);
}

/* Tracepoints are not exported by name, only their list is. */
struct probe {
	const char *name;
	void *function;
	struct tracepoint *tracepoint;
	bool registered;
};

static struct probe exit_probes[] = {
	{ .name = "sched_process_exit", .function = on_exit },
	{ .name = "sched_process_free", .function = on_free },
};

static void match_probe(struct tracepoint *tracepoint, void *data)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(exit_probes); i++)
		if (!strcmp(tracepoint->name, exit_probes[i].name))
			exit_probes[i].tracepoint = tracepoint;
}

static void unregister_probes(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(exit_probes); i++)
		if (exit_probes[i].registered)
			tracepoint_probe_unregister(exit_probes[i].tracepoint,
						    exit_probes[i].function, NULL);
	tracepoint_synchronize_unregister();
}

static int register_probes(void)
{
	int i, error;

	for_each_kernel_tracepoint(match_probe, NULL);
	for (i = 0; i < ARRAY_SIZE(exit_probes); i++) {
		struct probe *probe = &exit_probes[i];

		if (!probe->tracepoint) {
			pr_err("this kernel has no tracepoint %s\n", probe->name);
			error = -ENOENT;
			goto unwind;
		}
		error = tracepoint_probe_register(probe->tracepoint, probe->function, NULL);
		if (error)
			goto unwind;
		probe->registered = true;
	}
	return 0;

unwind:
	unregister_probes();
	return error;
}

static void free_exits(void)
{
	vfree(exit_ring);
	vfree(exit_sums);
	vfree(exit_parents);
}

static int exits_init(unsigned int ring_size)
{
	int error = -ENOMEM;

	exit_loaded_ns = ktime_get_boottime_ns();
	exit_ring_size = roundup_pow_of_two(ring_size);
	exit_ring = vzalloc(array_size(exit_ring_size, sizeof(*exit_ring)));
	exit_sums = vzalloc(array_size(SUM_SLOTS, sizeof(*exit_sums)));
	exit_parents = vzalloc(array_size(PARENT_SLOTS, sizeof(*exit_parents)));
	if (!exit_ring || !exit_sums || !exit_parents)
		goto unwind;
	exit_sums[0].sum.flags = LATIDO_SUM_REST;
	exit_sums[0].sum.cgroup = LATIDO_UNKNOWN;
	exit_sums[0].sum.uid = (u32)-1;
	exit_sums_used = 1;
	error = register_probes();
	if (error)
		goto unwind;
	return 0;

unwind:
	free_exits();
	return error;
}

static void exits_exit(void)
{
	unregister_probes();
	free_exits();
}

#endif /* LATIDO_EXITS_H */
