/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a process used: its fields of struct latido_record, summed over the
 * threads that live and those that have ended.
 */
#ifndef LATIDO_BPF_ACCOUNT_H
#define LATIDO_BPF_ACCOUNT_H

#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "../../../kmod/latido_record.h"

#define SUM_TRIES	4
#define MAX_THREADS	(1 << 22)	/* PID_MAX_LIMIT */
#define MAX_CPUS	4096

struct usage {
	__u64 runtime;		/* by the scheduler's clock, to the ns */
	__u64 utime;		/* by ticks: only the proportion is used */
	__u64 stime;
	__u64 minor_faults;
	__u64 major_faults;
	__u64 read_bytes;
	__u64 written_bytes;
};

/* Set by the loader before the programs are there. */
const volatile __u32 page_shift = 12;
const volatile __u32 use_thread_iterator = 1;

extern int bpf_iter_task_new(struct bpf_iter_task *it, struct task_struct *task,
			     unsigned int flags) __weak __ksym;
extern struct task_struct *bpf_iter_task_next(struct bpf_iter_task *it) __weak __ksym;
extern void bpf_iter_task_destroy(struct bpf_iter_task *it) __weak __ksym;

static __always_inline int counts_io(void)
{
	return bpf_core_field_exists(((struct task_io_accounting *)0)->read_bytes);
}

/* What threads that were released left behind. */
static __always_inline void ended_threads(struct signal_struct *signal, struct usage *usage)
{
	usage->runtime = signal->sum_sched_runtime;
	usage->utime = signal->utime;
	usage->stime = signal->stime;
	usage->minor_faults = signal->min_flt;
	usage->major_faults = signal->maj_flt;
	if (counts_io()) {
		usage->read_bytes = signal->ioac.read_bytes;
		usage->written_bytes = signal->ioac.write_bytes;
	} else {
		usage->read_bytes = LATIDO_UNKNOWN;
		usage->written_bytes = LATIDO_UNKNOWN;
	}
}

static __always_inline void add_thread(struct task_struct *thread, struct usage *usage)
{
	usage->runtime += thread->se.sum_exec_runtime;
	usage->utime += thread->utime;
	usage->stime += thread->stime;
	usage->minor_faults += thread->min_flt;
	usage->major_faults += thread->maj_flt;
	if (counts_io()) {
		usage->read_bytes += thread->ioac.read_bytes;
		usage->written_bytes += thread->ioac.write_bytes;
	}
}

/* The same through a pointer that was followed by hand. */
static __always_inline void probe_thread(struct task_struct *thread, struct usage *usage)
{
	usage->runtime += BPF_CORE_READ(thread, se.sum_exec_runtime);
	usage->utime += BPF_CORE_READ(thread, utime);
	usage->stime += BPF_CORE_READ(thread, stime);
	usage->minor_faults += BPF_CORE_READ(thread, min_flt);
	usage->major_faults += BPF_CORE_READ(thread, maj_flt);
	if (counts_io()) {
		usage->read_bytes += BPF_CORE_READ(thread, ioac.read_bytes);
		usage->written_bytes += BPF_CORE_READ(thread, ioac.write_bytes);
	}
}

struct thread_walk {
	struct list_head *head;
	struct list_head *at;
	struct usage *usage;
};

static long visit_thread(__u32 index, struct thread_walk *walk)
{
	struct task_struct *thread;
	struct list_head *at;

	if (!walk->at || walk->at == walk->head)
		return 1;
	at = walk->at;
	thread = (void *)at - bpf_core_field_offset(struct task_struct, thread_node);
	probe_thread(thread, walk->usage);
	walk->at = BPF_CORE_READ(at, next);
	return 0;
}

/* Before 6.7: along signal->thread_head. RCU keeps every task on it readable. */
static __always_inline void walk_threads(struct task_struct *leader, struct usage *usage)
{
	struct signal_struct *signal = leader->signal;
	struct thread_walk walk = {
		.head = (void *)signal + bpf_core_field_offset(struct signal_struct, thread_head),
		.usage = usage,
	};

	walk.at = BPF_CORE_READ(signal, thread_head.next);
	bpf_loop(MAX_THREADS, visit_thread, &walk, 0);
}

static __always_inline void iterate_threads(struct task_struct *leader, struct usage *usage)
{
	struct bpf_iter_task it;
	struct task_struct *thread;

	bpf_iter_task_new(&it, leader, BPF_TASK_ITER_PROC_THREADS);
	while ((thread = bpf_iter_task_next(&it)))
		add_thread(thread, usage);
	bpf_iter_task_destroy(&it);
}

static __always_inline unsigned int stats_sequence(struct signal_struct *signal)
{
	return *(volatile unsigned int *)&signal->stats_lock.seqcount.seqcount.sequence;
}

/*
 * Returns whether the sums are of one moment. A function of its own: inlined in
 * the loop, a call of the thread iterator would stand right before the head of
 * that loop, which verifiers such as 6.1's refuse as a back-edge.
 */
static __noinline int sum_threads_once(struct task_struct *leader, struct usage *usage)
{
	struct signal_struct *signal = leader->signal;
	unsigned int before = stats_sequence(signal);

	ended_threads(signal, usage);
	if (signal->nr_threads <= 1)
		add_thread(leader, usage);
	else if (bpf_core_type_exists(struct bpf_iter_task) && use_thread_iterator)
		iterate_threads(leader, usage);
	else
		walk_threads(leader, usage);
	return !(before & 1) && stats_sequence(signal) == before;
}

/*
 * A thread moves from the list into the sums under stats_lock, so whoever sees
 * a change starts over: no thread is missed or counted twice. A program may not
 * take the lock, so it gives up after some tries; user space lets no sum fall.
 */
static __always_inline void sum_threads(struct task_struct *leader, struct usage *usage)
{
	int i;

	for (i = 0; i < SUM_TRIES; i++) {
		if (sum_threads_once(leader, usage))
			break;
	}
}

/* stime * rest / total, whose product has 128 bits: bit by bit from the top. */
static __always_inline __u64 long_share(__u64 stime, __u64 rest, __u64 total)
{
	__u64 share = 0, left = 0;
	int i;

	for (i = 0; i < 64; i++) {
		share <<= 1;
		left <<= 1;
		if (left >= total) {
			left -= total;
			share++;
		}
		if (stime >> 63)
			left += rest;
		if (left >= total) {
			left -= total;
			share++;
		}
		stime <<= 1;
	}
	return share;
}

/* runtime * stime / (stime + utime), to the nanosecond as /proc has it. */
static __always_inline __u64 system_share(const struct usage *usage)
{
	__u64 stime = usage->stime, total = usage->stime + usage->utime;
	__u64 rest, share;

	if (!stime)
		return 0;
	if (!usage->utime)
		return usage->runtime;
	rest = usage->runtime % total;
	share = usage->runtime / total * stime;
	share += total >> 32 ? long_share(stime, rest, total) : stime * rest / total;
	return share < usage->runtime ? share : usage->runtime;
}

/*
 * As cputime_adjust() (kernel/sched/cputime.c): ticks say in which proportion
 * the runtime was spent in user and in system mode, and neither may fall below
 * what /proc said last. Here that is read and not renewed.
 */
static __always_inline void split_runtime(struct signal_struct *signal, const struct usage *usage,
					  struct latido_record *record)
{
	__u64 user = signal->prev_cputime.utime;
	__u64 system = signal->prev_cputime.stime;

	if (usage->runtime > user + system) {
		__u64 share = system_share(usage);

		if (share < system)
			share = system;
		if (usage->runtime - share < user)
			share = usage->runtime - user;
		system = share;
		user = usage->runtime - share;
	}
	record->user_ns = user;
	record->system_ns = system;
}

static __always_inline void fill_usage(struct signal_struct *signal, const struct usage *usage,
				       struct latido_record *record)
{
	split_runtime(signal, usage, record);
	record->minor_faults = usage->minor_faults;
	record->major_faults = usage->major_faults;
	record->read_bytes = usage->read_bytes;
	record->written_bytes = usage->written_bytes;
}

/* What must be added to a per-CPU pointer, by CPU. */
struct cpu_offsets {
	__u32 known;
	__u32 cpus;
	__u64 offset[MAX_CPUS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cpu_offsets);
} cpu_map SEC(".maps");

/* Holds nothing: where its value lies on a CPU tells where all of that CPU's do. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} landmark SEC(".maps");

struct cpu_search {
	struct cpu_offsets *cpus;
	__u64 base;
};

static __always_inline __u64 address_of(void *pointer)
{
	__u64 address = 0;

	bpf_probe_read_kernel(&address, sizeof(address), &pointer);
	return address;
}

static long learn_cpu(__u32 cpu, struct cpu_search *search)
{
	struct cpu_offsets *cpus = search->cpus;
	__u32 zero = 0;
	void *there;

	if (cpu >= MAX_CPUS)
		return 1;
	there = bpf_map_lookup_percpu_elem(&landmark, &zero, cpu);
	if (!there)
		return 1;
	cpus->offset[cpu] = address_of(there) - search->base;
	cpus->cpus = cpu + 1;
	return 0;
}

/*
 * __per_cpu_offset is in no BTF, and its address a secret (kptr_restrict). A
 * map of ours has the same memory by a per-CPU pointer and, CPU by CPU, by its
 * address: the difference is the offset.
 */
static __always_inline void learn_cpus(struct cpu_offsets *cpus)
{
	struct cpu_search search = { .cpus = cpus };
	__u64 map = address_of(&landmark);

	bpf_probe_read_kernel(&search.base, sizeof(search.base),
			      (void *)map + bpf_core_field_offset(struct bpf_array, pptrs));
	bpf_loop(MAX_CPUS, learn_cpu, &search, 0);
	cpus->known = 1;
}

static __always_inline struct cpu_offsets *cpu_offsets(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&cpu_map, &zero);
}

struct memory {
	__s64 pages[NR_MM_COUNTERS];
	void *counters[NR_MM_COUNTERS];
	__u32 together;		/* the counters of one CPU lie side by side */
	struct cpu_offsets *cpus;
};

static long add_cpu(__u32 cpu, struct memory *memory)
{
	struct cpu_offsets *cpus = memory->cpus;
	__s32 part[NR_MM_COUNTERS] = {};
	__u64 offset;
	int i;

	if (cpu >= MAX_CPUS)
		return 1;
	offset = cpus->offset[cpu];
	if (memory->together) {
		bpf_probe_read_kernel(part, sizeof(part), memory->counters[0] + offset);
	} else {
		for (i = 0; i < NR_MM_COUNTERS; i++)
			bpf_probe_read_kernel(&part[i], sizeof(part[i]), memory->counters[i] + offset);
	}
	for (i = 0; i < NR_MM_COUNTERS; i++)
		memory->pages[i] += part[i];
	return 0;
}

/* Literal indices: only they are relocated, by the size that the elements have there. */
#define READ_PER_CPU(mm, memory, index) do {				\
	(memory)->pages[index] = (mm)->rss_stat[index].count;		\
	(memory)->counters[index] = (mm)->rss_stat[index].counters;	\
} while (0)

/* The kernel's cheap read can be tens of MiB off on a big machine: sum all. */
static __always_inline void read_pages(struct mm_struct *mm, struct memory *memory)
{
	if (bpf_core_field_exists(((struct mm_struct___per_cpu *)0)->rss_stat[0].counters)) {
		struct mm_struct___per_cpu *has = (void *)mm;

		READ_PER_CPU(has, memory, MM_FILEPAGES);
		READ_PER_CPU(has, memory, MM_ANONPAGES);
		READ_PER_CPU(has, memory, MM_SWAPENTS);
		READ_PER_CPU(has, memory, MM_SHMEMPAGES);
		memory->together = memory->counters[1] == memory->counters[0] + 4 &&
				   memory->counters[2] == memory->counters[0] + 8 &&
				   memory->counters[3] == memory->counters[0] + 12;
		memory->cpus = cpu_offsets();
		if (memory->cpus && memory->counters[0])
			bpf_loop(memory->cpus->cpus, add_cpu, memory, 0);
	} else {
		/* By probes: 6.1's verifier follows no array of a typedef of a struct. */
		struct mm_struct___single *has = (void *)mm;

		memory->pages[MM_FILEPAGES] = BPF_CORE_READ(has, rss_stat.count[MM_FILEPAGES].counter);
		memory->pages[MM_ANONPAGES] = BPF_CORE_READ(has, rss_stat.count[MM_ANONPAGES].counter);
		memory->pages[MM_SWAPENTS] = BPF_CORE_READ(has, rss_stat.count[MM_SWAPENTS].counter);
		memory->pages[MM_SHMEMPAGES] = BPF_CORE_READ(has, rss_stat.count[MM_SHMEMPAGES].counter);
	}
}

static __always_inline __u64 to_bytes(__s64 pages)
{
	return pages > 0 ? (__u64)pages << page_shift : 0;
}

/*
 * Without the lock of the task its memory may go while it is read. It is taken
 * from the task before it is freed, so if it is still there it was throughout.
 */
static __always_inline void fill_memory(struct task_struct *task, struct latido_record *record)
{
	struct mm_struct *mm = task->mm;
	struct memory memory = {};
	__u64 virtual_pages;

	if (!mm || (task->flags & PF_KTHREAD))
		return;
	read_pages(mm, &memory);
	virtual_pages = mm->total_vm;
	if (*(struct mm_struct *volatile *)&task->mm != mm)
		return;
	record->rss_bytes = to_bytes((memory.pages[MM_FILEPAGES] > 0 ? memory.pages[MM_FILEPAGES] : 0) +
				     (memory.pages[MM_ANONPAGES] > 0 ? memory.pages[MM_ANONPAGES] : 0) +
				     (memory.pages[MM_SHMEMPAGES] > 0 ? memory.pages[MM_SHMEMPAGES] : 0));
	record->swap_bytes = to_bytes(memory.pages[MM_SWAPENTS]);
	record->virtual_bytes = virtual_pages << page_shift;
}

static __always_inline __u64 cgroup_of(struct task_struct *task)
{
	return task->cgroups->dfl_cgrp->kn->id;
}

/* As task_state_to_char() (include/linux/sched.h). */
static __always_inline __u8 state_letter(struct task_struct *task)
{
	static const char letters[] = { 'R', 'S', 'D', 'T', 't', 'X', 'Z', 'P', 'I' };
	unsigned int state = task->__state;
	unsigned int report = (state | task->exit_state) & TASK_REPORT;
	int i, last = 0;

	if ((state & TASK_IDLE) == TASK_IDLE)
		report = TASK_REPORT_IDLE;
	if (state & (TASK_RTLOCK_WAIT | TASK_FROZEN))
		report = TASK_UNINTERRUPTIBLE;
#pragma unroll
	for (i = 0; i < 8; i++)
		if (report & (1 << i))
			last = i + 1;
	return letters[last];
}

#endif /* LATIDO_BPF_ACCOUNT_H */
