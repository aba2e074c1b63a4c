// SPDX-License-Identifier: GPL-2.0
/*
 * /proc/latido_ram: memory of the machine as one JSON object.
 *
 * The counters of /proc/meminfo (fs/proc/meminfo.c) that a module can reach.
 * The total of swap is not among them: its reader takes it from there.
 */
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/swap.h>
#include <linux/vmstat.h>

#include "latido_file.h"
#include "latido_record.h"

static unsigned int gid;
module_param(gid, uint, 0444);
MODULE_PARM_DESC(gid, "group that may read /proc/latido_ram (default 0)");

static unsigned long long bytes(unsigned long pages)
{
	return (unsigned long long)pages << PAGE_SHIFT;
}

/* The page cache without block devices' buffers and pages on their way out. */
static unsigned long cached_pages(const struct sysinfo *info)
{
	long pages = global_node_page_state(NR_FILE_PAGES) - info->bufferram;

#ifdef CONFIG_SWAP
	pages -= global_node_page_state(NR_SWAPCACHE);
#endif
	return max(pages, 0L);
}

static int ram_show(struct seq_file *m, void *v)
{
	struct sysinfo info;
	long available = si_mem_available();

	si_meminfo(&info);
	seq_printf(m, "{\"version\":%d", LATIDO_VERSION);
	seq_printf(m, ",\"total_bytes\":%llu", bytes(info.totalram));
	seq_printf(m, ",\"free_bytes\":%llu", bytes(info.freeram));
	seq_printf(m, ",\"available_bytes\":%llu", bytes(max(available, 0L)));
	seq_printf(m, ",\"cached_bytes\":%llu", bytes(cached_pages(&info)));
	seq_printf(m, ",\"buffers_bytes\":%llu", bytes(info.bufferram));
	seq_printf(m, ",\"shared_bytes\":%llu", bytes(info.sharedram));
	seq_printf(m, ",\"slab_bytes\":%llu",
		   bytes(global_node_page_state_pages(NR_SLAB_RECLAIMABLE_B) +
			 global_node_page_state_pages(NR_SLAB_UNRECLAIMABLE_B)));
#ifdef CONFIG_SWAP
	seq_printf(m, ",\"swap_free_bytes\":%llu", bytes(get_nr_swap_pages()));
#endif
	seq_puts(m, "}\n");
	return 0;
}

static int ram_open(struct inode *inode, struct file *file)
{
	return single_open(file, ram_show, NULL);
}

static const struct proc_ops ram_ops = {
	.proc_open	= ram_open,
	.proc_read_iter	= seq_read_iter,
	.proc_lseek	= seq_lseek,
	.proc_release	= single_release,
};

static struct proc_dir_entry *ram_entry;

static int __init latido_ram_init(void)
{
	ram_entry = latido_create("latido_ram", &ram_ops, gid);
	return PTR_ERR_OR_ZERO(ram_entry);
}

static void __exit latido_ram_exit(void)
{
	proc_remove(ram_entry);
}

module_init(latido_ram_init);
module_exit(latido_ram_exit);
MODULE_DESCRIPTION("Latido: memory in /proc/latido_ram");
MODULE_AUTHOR("The Latido authors");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
