/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's structures, as far as latido.bpf.c reads them. Offsets are not
 * those of this file: the kernel that loads the program relocates every access
 * by its own BTF (CO-RE). A name after ___ is a flavour: the same structure as
 * another kernel has it.
 */
#ifndef LATIDO_KERNEL_H
#define LATIDO_KERNEL_H

#include <linux/bpf.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct list_head {
	struct list_head *next;
};

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	__s64 counter;
} atomic64_t;

typedef struct {
	__u32 val;
} kuid_t;

struct seqcount {
	unsigned int sequence;
};

typedef struct seqcount seqcount_t;

struct seqcount_spinlock {
	seqcount_t seqcount;
};

typedef struct seqcount_spinlock seqcount_spinlock_t;

typedef struct {
	seqcount_spinlock_t seqcount;
} seqlock_t;

struct prev_cputime {
	__u64 utime;
	__u64 stime;
};

struct task_io_accounting {
	__u64 read_bytes;
	__u64 write_bytes;
};

struct sched_entity {
	__u64 sum_exec_runtime;
};

struct signal_struct {
	atomic_t live;
	int nr_threads;
	struct list_head thread_head;
	seqlock_t stats_lock;
	__u64 utime;
	__u64 stime;
	struct prev_cputime prev_cputime;
	unsigned long min_flt;
	unsigned long maj_flt;
	struct task_io_accounting ioac;
	unsigned long long sum_sched_runtime;
};

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct cred {
	kuid_t euid;
};

/* Since 6.2 a counter is per CPU; before, one number. */
struct percpu_counter {
	__s64 count;
	int *counters;
};

struct mm_struct {
	unsigned long total_vm;
};

struct mm_struct___per_cpu {
	struct percpu_counter rss_stat[4];
};

typedef struct {
	long counter;
} atomic_long_t;

struct mm_rss_stat {
	atomic_long_t count[4];
};

struct mm_struct___single {
	struct mm_rss_stat rss_stat;
};

struct task_struct {
	unsigned int __state;
	unsigned int flags;
	struct sched_entity se;
	struct mm_struct *mm;
	int exit_state;
	int exit_signal;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct list_head thread_node;
	__u64 utime;
	__u64 stime;
	unsigned long nvcsw;
	unsigned long nivcsw;
	__u64 start_boottime;
	unsigned long min_flt;
	unsigned long maj_flt;
	const struct cred *real_cred;
	char comm[16];
	struct signal_struct *signal;
	struct task_io_accounting ioac;
	struct css_set *cgroups;
};

struct bpf_array {
	void *pptrs[1];
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

/* Since 6.7: the open-coded iterator over threads (kernel/bpf/task_iter.c). */
struct bpf_iter_task {
	__u64 __opaque[3];
} __attribute__((aligned(8)));

#pragma clang attribute pop

/* Values that are part of no BTF (include/linux/sched.h). */
#define PF_KTHREAD		0x00200000
#define TASK_UNINTERRUPTIBLE	0x0002
#define TASK_REPORT		0x007f
#define TASK_REPORT_IDLE	0x0080
#define TASK_IDLE		0x0402
#define TASK_RTLOCK_WAIT	0x1000
#define TASK_FROZEN		0x8000

/* Members of mm_struct.rss_stat (include/linux/mm_types_task.h). */
#define MM_FILEPAGES	0
#define MM_ANONPAGES	1
#define MM_SWAPENTS	2
#define MM_SHMEMPAGES	3
#define NR_MM_COUNTERS	4

#define BPF_TASK_ITER_PROC_THREADS 2

#endif /* LATIDO_KERNEL_H */
