// SPDX-License-Identifier: GPL-2.0
/* Compiles where those counters are per CPU (Linux 6.2). */
#include <linux/mm.h>
#include <linux/percpu_counter.h>

static unsigned long __used probe(struct mm_struct *mm)
{
	return percpu_counter_sum_positive(&mm->rss_stat[MM_ANONPAGES]);
}
