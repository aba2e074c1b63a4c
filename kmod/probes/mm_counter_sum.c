// SPDX-License-Identifier: GPL-2.0
/* Compiles where a precise sum of a process's memory counters is at hand. */
#include <linux/mm.h>

static unsigned long __used probe(struct mm_struct *mm)
{
	return get_mm_counter_sum(mm, MM_ANONPAGES);
}
