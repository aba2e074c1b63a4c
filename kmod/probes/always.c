// SPDX-License-Identifier: GPL-2.0
/* Compiles everywhere: where it does not, the other probes say nothing. */
#include <linux/mm.h>

static unsigned long __used probe(struct mm_struct *mm)
{
	return mm->total_vm;
}
