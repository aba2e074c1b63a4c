// SPDX-License-Identifier: GPL-2.0
/*
 * /proc/latido_cpu: CPU time by core and mode, load and boot time as one JSON
 * object.
 *
 * The times of /proc/stat (fs/proc/stat.c) before they are cut to ticks.
 * Context switches and forks are not exported to modules: the reader takes
 * them from there.
 */
#include <linux/cpumask.h>
#include <linux/kernel_stat.h>
#include <linux/module.h>
#include <linux/sched/loadavg.h>
#include <linux/tick.h>
#include <linux/timekeeping.h>

#include "latido_file.h"
#include "latido_record.h"

#define MODES	10

static unsigned int gid;
module_param(gid, uint, 0444);
MODULE_PARM_DESC(gid, "group that may read /proc/latido_cpu (default 0)");

/* In the order of a line of /proc/stat. */
static const char * const mode_names[MODES] = {
	"user_ns", "nice_ns", "system_ns", "idle_ns", "iowait_ns",
	"irq_ns", "softirq_ns", "steal_ns", "guest_ns", "guest_nice_ns",
};

/*
 * A core whose tick is stopped keeps its idle time elsewhere; an offline one,
 * or one with no such clock, has what was counted at ticks.
 */
static u64 sleep_ns(u64 (*clock)(int cpu, u64 *updated), int cpu, u64 counted)
{
	u64 us = cpu_online(cpu) ? clock(cpu, NULL) : -1ULL;

	return us == -1ULL ? counted : us * NSEC_PER_USEC;
}

static void read_core(int cpu, u64 modes[MODES])
{
	struct kernel_cpustat stat;
	const u64 *counted = stat.cpustat;

	kcpustat_cpu_fetch(&stat, cpu);
	modes[0] = counted[CPUTIME_USER];
	modes[1] = counted[CPUTIME_NICE];
	modes[2] = counted[CPUTIME_SYSTEM];
	modes[3] = sleep_ns(get_cpu_idle_time_us, cpu, counted[CPUTIME_IDLE]);
	modes[4] = sleep_ns(get_cpu_iowait_time_us, cpu, counted[CPUTIME_IOWAIT]);
	modes[5] = counted[CPUTIME_IRQ];
	modes[6] = counted[CPUTIME_SOFTIRQ];
	modes[7] = counted[CPUTIME_STEAL];
	modes[8] = counted[CPUTIME_GUEST];
	modes[9] = counted[CPUTIME_GUEST_NICE];
}

static void show_mode_names(struct seq_file *m)
{
	int i;

	seq_puts(m, ",\"modes\":");
	for (i = 0; i < MODES; i++)
		seq_printf(m, "%c\"%s\"", i ? ',' : '[', mode_names[i]);
	seq_putc(m, ']');
}

static void show_modes(struct seq_file *m, const u64 modes[MODES])
{
	int i;

	for (i = 0; i < MODES; i++)
		seq_printf(m, "%c%llu", i ? ',' : '[', modes[i]);
	seq_putc(m, ']');
}

/* As total, the cores that are offline now have their part too. */
static void show_cores(struct seq_file *m)
{
	u64 total[MODES] = { 0 }, modes[MODES];
	const char *separator = "";
	int cpu, i;

	seq_puts(m, ",\"cores\":{");
	for_each_possible_cpu(cpu) {
		read_core(cpu, modes);
		for (i = 0; i < MODES; i++)
			total[i] += modes[i];
		if (!cpu_online(cpu))
			continue;
		seq_printf(m, "%s\"%d\":", separator, cpu);
		show_modes(m, modes);
		separator = ",";
	}
	seq_puts(m, "},\"total\":");
	show_modes(m, total);
}

/* The three averages with two decimals, rounded as /proc/loadavg rounds. */
static void show_loads(struct seq_file *m)
{
	int i;

	seq_puts(m, ",\"load\":");
	for (i = 0; i < 3; i++) {
		unsigned long load = READ_ONCE(avenrun[i]) + FIXED_1 / 200;

		seq_printf(m, "%c%lu.%02lu", i ? ',' : '[', LOAD_INT(load),
			   LOAD_FRAC(load));
	}
	seq_putc(m, ']');
}

static int cpu_show(struct seq_file *m, void *v)
{
	struct timespec64 boot;

	getboottime64(&boot);
	seq_printf(m, "{\"version\":%d", LATIDO_VERSION);
	show_mode_names(m);
	show_cores(m);
	show_loads(m);
	seq_printf(m, ",\"boot_time_seconds\":%lld}\n", boot.tv_sec);
	return 0;
}

/* Room for every core at once, so that the fill does not start over. */
static int cpu_open(struct inode *inode, struct file *file)
{
	size_t size = 1024 + (size_t)num_possible_cpus() * 256;

	return single_open_size(file, cpu_show, NULL, size);
}

static const struct proc_ops cpu_ops = {
	.proc_open	= cpu_open,
	.proc_read_iter	= seq_read_iter,
	.proc_lseek	= seq_lseek,
	.proc_release	= single_release,
};

static struct proc_dir_entry *cpu_entry;

static int __init latido_cpu_init(void)
{
	cpu_entry = latido_create("latido_cpu", &cpu_ops, gid);
	return PTR_ERR_OR_ZERO(cpu_entry);
}

static void __exit latido_cpu_exit(void)
{
	proc_remove(cpu_entry);
}

module_init(latido_cpu_init);
module_exit(latido_cpu_exit);
MODULE_DESCRIPTION("Latido: CPU time in /proc/latido_cpu");
MODULE_AUTHOR("The Latido authors");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
