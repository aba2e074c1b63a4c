// SPDX-License-Identifier: GPL-2.0
/* Compiles where sched_process_exit says whether the thread was the last. */
#include <trace/events/sched.h>

static void on_exit(void *data, struct task_struct *task, bool group_dead)
{
}

static void __used probe(void)
{
	check_trace_callback_type_sched_process_exit(on_exit);
}
