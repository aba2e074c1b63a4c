/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a process used: its fields of struct latido_record, summed over the
 * threads that live and those that have ended.
 *
 * All of it is read under RCU, signal->stats_lock and task_lock alone, so it
 * may run where sleeping is forbidden.
 */
#ifndef LATIDO_ACCOUNT_H
#define LATIDO_ACCOUNT_H

#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/percpu_counter.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/seqlock.h>

#include "latido_record.h"

struct usage {
	u64 runtime;		/* by the scheduler's clock, to the ns */
	u64 utime;		/* by ticks: only the proportion is used */
	u64 stime;
	u64 minor_faults;
	u64 major_faults;
	u64 read_bytes;
	u64 written_bytes;
};

/* What threads that were released left behind. */
static void ended_threads(struct signal_struct *signal, struct usage *usage)
{
	usage->runtime = signal->sum_sched_runtime;
	usage->utime = signal->utime;
	usage->stime = signal->stime;
	usage->minor_faults = signal->min_flt;
	usage->major_faults = signal->maj_flt;
#ifdef CONFIG_TASK_IO_ACCOUNTING
	usage->read_bytes = signal->ioac.read_bytes;
	usage->written_bytes = signal->ioac.write_bytes;
#else
	usage->read_bytes = LATIDO_UNKNOWN;
	usage->written_bytes = LATIDO_UNKNOWN;
#endif
}

static void add_thread(struct task_struct *thread, struct usage *usage)
{
	usage->runtime += READ_ONCE(thread->se.sum_exec_runtime);
	usage->utime += READ_ONCE(thread->utime);
	usage->stime += READ_ONCE(thread->stime);
	usage->minor_faults += thread->min_flt;
	usage->major_faults += thread->maj_flt;
#ifdef CONFIG_TASK_IO_ACCOUNTING
	usage->read_bytes += thread->ioac.read_bytes;
	usage->written_bytes += thread->ioac.write_bytes;
#endif
}

/*
 * A thread moves from the list into the sums under stats_lock, so whoever
 * sees a change starts over, the second time holding the lock: no thread is
 * missed or counted twice. Call under RCU.
 */
static void sum_threads(struct task_struct *task, struct usage *usage)
{
	struct signal_struct *signal = task->signal;
	struct task_struct *thread;
	unsigned long flags;
	int seq, next = 0;

	do {
		seq = next;
		flags = read_seqbegin_or_lock_irqsave(&signal->stats_lock, &seq);
		ended_threads(signal, usage);
		for_each_thread(task, thread)
			add_thread(thread, usage);
		next = 1;
	} while (need_seqretry(&signal->stats_lock, seq));
	done_seqretry_irqrestore(&signal->stats_lock, seq, flags);
}

/*
 * Ticks say in which proportion the runtime was spent in user and in system
 * mode. The proportion moves, the two times must never go back: the kernel
 * keeps what it last said in signal->prev_cputime, and asking it there keeps
 * /proc and this file in agreement. thread_group_cputime_adjusted(), which
 * does this for /proc, is not exported.
 */
#ifdef CONFIG_VIRT_CPU_ACCOUNTING_NATIVE
static void split_runtime(struct signal_struct *signal,
			  const struct usage *usage, u64 *user, u64 *system)
{
	*user = usage->utime;
	*system = usage->stime;
}
#else
static u64 system_share(const struct usage *usage)
{
	u64 share;

	if (!usage->stime)
		return 0;
	if (!usage->utime)
		return usage->runtime;
	share = mul_u64_u64_div_u64(usage->stime, usage->runtime,
				    usage->stime + usage->utime);
	return min(share, usage->runtime);
}

static void split_runtime(struct signal_struct *signal,
			  const struct usage *usage, u64 *user, u64 *system)
{
	struct prev_cputime *said = &signal->prev_cputime;
	unsigned long flags;

	raw_spin_lock_irqsave(&said->lock, flags);
	if (usage->runtime > said->utime + said->stime) {
		u64 share = max(system_share(usage), said->stime);

		/* Neither may fall: the other takes what is left. */
		if (usage->runtime - share < said->utime)
			share = usage->runtime - said->utime;
		said->stime = share;
		said->utime = usage->runtime - share;
	}
	*user = said->utime;
	*system = said->stime;
	raw_spin_unlock_irqrestore(&said->lock, flags);
}
#endif

/*
 * Since 6.2 these counters are per CPU, and their cheap read is off by up to
 * a batch per CPU: tens of MiB on a big machine. Kbuild probes for the sum.
 */
static u64 mm_pages(struct mm_struct *mm, int member)
{
#if defined(HAVE_MM_COUNTER_SUM)
	return get_mm_counter_sum(mm, member);
#elif defined(HAVE_MM_COUNTER_PERCPU)
	return percpu_counter_sum_positive(&mm->rss_stat[member]);
#else
	return get_mm_counter(mm, member);
#endif
}

/*
 * A kernel thread may borrow a process's memory; it is not its own. mmput()
 * may sleep, so no reference is taken: task_lock keeps task->mm in place.
 */
static void fill_memory(struct task_struct *task, struct latido_record *record)
{
	struct mm_struct *mm;

	task_lock(task);
	mm = task->mm;
	if (mm && !(task->flags & PF_KTHREAD)) {
		record->rss_bytes = (mm_pages(mm, MM_FILEPAGES) +
				     mm_pages(mm, MM_ANONPAGES) +
				     mm_pages(mm, MM_SHMEMPAGES)) << PAGE_SHIFT;
		record->swap_bytes = mm_pages(mm, MM_SWAPENTS) << PAGE_SHIFT;
		record->virtual_bytes = (u64)READ_ONCE(mm->total_vm) << PAGE_SHIFT;
	}
	task_unlock(task);
}

static void fill_usage(struct signal_struct *signal, const struct usage *usage,
		       struct latido_record *record)
{
	split_runtime(signal, usage, &record->user_ns, &record->system_ns);
	record->minor_faults = usage->minor_faults;
	record->major_faults = usage->major_faults;
	record->read_bytes = usage->read_bytes;
	record->written_bytes = usage->written_bytes;
}

#endif /* LATIDO_ACCOUNT_H */
