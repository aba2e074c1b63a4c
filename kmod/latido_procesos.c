// SPDX-License-Identifier: GPL-2.0
/*
 * /proc/latido_procesos: every process in one read, as JSON for people and
 * other programs; latido_procesos.bin: the same as struct latido_record;
 * latido_procesos.exits: those that ended, by number.
 *
 * A walk goes by thread group id upwards in the pid namespace of the /proc
 * that is read, as the folders beside the file do. It holds RCU for one
 * buffer at a time and goes on at the next id, so a process that lives
 * throughout is there once. ABI.md says what each field means.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitmap.h>
#include <linux/cred.h>
#include <linux/idr.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/rcupdate.h>
#include <linux/threads.h>

#include "latido_account.h"
#include "latido_cgroups.h"
#include "latido_exits.h"
#include "latido_file.h"
#include "latido_record.h"

#define EXIT_BATCH	128
#define SCAN_BATCH	4096	/* ids looked at before RCU is let go */

/* Positions in the table: 0 is the header, then every id, then these. */
#define AT_SUMS		((loff_t)1 << 24)
#define AT_PATHS	((loff_t)2 << 24)
#define AT_END		((loff_t)3 << 24)

static unsigned int gid;
module_param(gid, uint, 0444);
MODULE_PARM_DESC(gid, "group that may read the files (default 0)");

static unsigned int exits = 8192;
module_param(exits, uint, 0444);
MODULE_PARM_DESC(exits, "exit records kept, rounded up to a power of two (64 to 1048576, default 8192)");

struct walk {
	struct pid_namespace *ns;	/* of the /proc; its superblock holds it */
	struct user_namespace *users;	/* of who opened the file */
	bool binary;
	bool whole;			/* this is the machine's own /proc */
	loff_t at;
	struct task_struct *task;	/* valid under the RCU of start to stop */
	u64 cgroup;			/* of the path at hand */
	size_t length;
	struct exit_span span;
	u32 records;
	u32 paths;
	u64 paths_bytes;
	u64 threads;
	u32 states[128];
	unsigned int sums;
	struct latido_sum *sum;
	char path[CGROUP_TEXT];
	DECLARE_BITMAP(seen, CGROUP_SLOTS);
};

/* Where the walk stands at a process: the id is that of the iterator, since a
 * task that is being reaped has none of its own any more.
 */
static void fill_process(struct walk *walk, struct latido_record *record)
{
	struct task_struct *task = walk->task;
	struct usage usage;

	memset(record, 0, sizeof(*record));
	record->pid = walk->at;
	record->ppid = task_ppid_nr_ns(task, walk->ns);
	record->uid = from_kuid_munged(walk->users, task_euid(task));
	record->threads = get_nr_threads(task);
	record->state = task_state_to_char(task);
	record->start_ns = task->start_boottime;
	record->voluntary_switches = READ_ONCE(task->nvcsw);
	record->involuntary_switches = READ_ONCE(task->nivcsw);
	record->cgroup = task_cgroup_id(task, walk->seen);
	get_task_comm(record->command, task);
	sum_threads(task, &usage);
	fill_usage(task->signal, &usage, record);
	fill_memory(task, record);
}

/* Finds the first process at or after *pos. RCU is held, but not throughout. */
static bool at_process(struct walk *walk, loff_t *pos)
{
	int id = *pos, scanned = 0;
	struct pid *pid;

	while (id < PID_MAX_LIMIT) {
		pid = idr_get_next(&walk->ns->idr, &id);
		if (!pid)
			break;
		walk->task = pid_task(pid, PIDTYPE_TGID);
		if (walk->task) {
			*pos = id;
			return true;
		}
		id++;
		if (++scanned % SCAN_BATCH == 0) {
			rcu_read_unlock();
			cond_resched();
			rcu_read_lock();
		}
	}
	*pos = AT_SUMS;
	return false;
}

static bool at_sum(struct walk *walk, loff_t *pos)
{
	if (*pos - AT_SUMS < walk->sums)
		return true;
	*pos = AT_PATHS;
	return false;
}

/* A container's own /proc names only the cgroups that it shows processes of. */
static bool at_path(struct walk *walk, loff_t *pos)
{
	for (; *pos - AT_PATHS < CGROUP_SLOTS; ++*pos) {
		if (!walk->whole && !test_bit(*pos - AT_PATHS, walk->seen))
			continue;
		walk->length = copy_cgroup_slot(*pos - AT_PATHS, &walk->cgroup, walk->path);
		if (walk->length)
			return true;
	}
	*pos = AT_END;
	return false;
}

/* Finds the first item at or after *pos. */
static void *find_item(struct walk *walk, loff_t *pos)
{
	bool found = *pos == 0;

	if (!found && *pos < AT_SUMS)
		found = at_process(walk, pos);
	if (!found && !walk->binary)
		*pos = max(*pos, AT_END);
	if (!found && *pos < AT_PATHS)
		found = at_sum(walk, pos);
	if (!found && *pos < AT_END)
		found = at_path(walk, pos);
	walk->at = *pos;
	return found || *pos == AT_END ? walk : NULL;
}

/* Ends of processes are told by their ids outside: only to the machine's own. */
static void begin_walk(struct walk *walk)
{
	walk->records = 0;
	walk->paths = 0;
	walk->paths_bytes = 0;
	walk->threads = 0;
	walk->sums = 0;
	memset(walk->states, 0, sizeof(walk->states));
	bitmap_zero(walk->seen, CGROUP_SLOTS);
	walk->span = (struct exit_span){ .oldest = 1 };
	if (!walk->whole)
		return;
	if (walk->binary)
		walk->sums = copy_sums(walk->sum, &walk->span);
	else
		walk->span = exits_span();
}

static void *walk_start(struct seq_file *m, loff_t *pos)
	__acquires(RCU)
{
	struct walk *walk = m->private;

	rcu_read_lock();
	if (*pos == 0)
		begin_walk(walk);
	return find_item(walk, pos);
}

static void *walk_next(struct seq_file *m, void *v, loff_t *pos)
{
	++*pos;
	return find_item(m->private, pos);
}

static void walk_stop(struct seq_file *m, void *v)
	__releases(RCU)
{
	rcu_read_unlock();
}

/* What did not fit is shown again in the next buffer: count what did. */
static void count_process(struct walk *walk, const struct latido_record *record)
{
	walk->records++;
	walk->threads += record->threads;
	walk->states[record->state % ARRAY_SIZE(walk->states)]++;
}

static void write_header(struct seq_file *m, struct walk *walk)
{
	struct latido_header header = {
		.version = LATIDO_VERSION,
		.header_bytes = sizeof(struct latido_header),
		.record_bytes = sizeof(struct latido_record),
		.sum_bytes = sizeof(struct latido_sum),
		.now_ns = ktime_get_boottime_ns(),
		.loaded_ns = exit_loaded_ns,
		.newest_exit = walk->span.newest,
		.oldest_exit = walk->span.oldest,
	};

	memcpy(header.magic, LATIDO_HEAD, sizeof(header.magic));
	seq_write(m, &header, sizeof(header));
}

static void write_process(struct seq_file *m, struct walk *walk)
{
	struct latido_record record;

	fill_process(walk, &record);
	if (!seq_write(m, &record, sizeof(record)))
		count_process(walk, &record);
}

static void write_path(struct seq_file *m, struct walk *walk)
{
	static const char padding[8];
	struct latido_path path = {
		.cgroup = walk->cgroup,
		.length = walk->length,
	};
	size_t size = sizeof(path) + ALIGN(walk->length, 8);

	seq_write(m, &path, sizeof(path));
	seq_write(m, walk->path, walk->length);
	seq_write(m, padding, ALIGN(walk->length, 8) - walk->length);
	if (!seq_has_overflowed(m)) {
		walk->paths++;
		walk->paths_bytes += size;
	}
}

static void write_trailer(struct seq_file *m, struct walk *walk)
{
	struct latido_trailer trailer = {
		.records = walk->records,
		.sums = walk->sums,
		.paths = walk->paths,
		.trailer_bytes = sizeof(struct latido_trailer),
		.paths_bytes = walk->paths_bytes,
		.total_bytes = sizeof(struct latido_header) +
			(u64)walk->records * sizeof(struct latido_record) +
			(u64)walk->sums * sizeof(struct latido_sum) +
			walk->paths_bytes + sizeof(struct latido_trailer),
	};

	memcpy(trailer.magic, LATIDO_TAIL, sizeof(trailer.magic));
	seq_write(m, &trailer, sizeof(trailer));
}

static int binary_show(struct seq_file *m, void *v)
{
	struct walk *walk = v;

	if (walk->at == 0)
		write_header(m, walk);
	else if (walk->at < AT_SUMS)
		write_process(m, walk);
	else if (walk->at < AT_PATHS)
		seq_write(m, &walk->sum[walk->at - AT_SUMS], sizeof(*walk->sum));
	else if (walk->at < AT_END)
		write_path(m, walk);
	else
		write_trailer(m, walk);
	return 0;
}

/*
 * A name may hold any byte. One outside of printable ASCII is written \u00XX,
 * so that the document is JSON and ASCII whatever a process calls itself.
 */
static void put_string(struct seq_file *m, const char *text, size_t length)
{
	size_t i;

	seq_putc(m, '"');
	for (i = 0; i < length; i++) {
		unsigned char c = text[i];

		if (c < 0x20 || c > 0x7e)
			seq_printf(m, "\\u%04x", c);
		else if (c == '"' || c == '\\')
			seq_printf(m, "\\%c", c);
		else
			seq_putc(m, c);
	}
	seq_putc(m, '"');
}

static void put_number(struct seq_file *m, u64 value)
{
	if (value == LATIDO_UNKNOWN)
		seq_puts(m, ",null");
	else
		seq_put_decimal_ull(m, ",", value);
}

static void put_cgroup(struct seq_file *m, struct walk *walk, u64 cgroup)
{
	size_t length = cgroup == LATIDO_UNKNOWN ? 0 : copy_cgroup_path(cgroup, walk->path);

	seq_putc(m, ',');
	if (length)
		put_string(m, walk->path, length);
	else
		seq_puts(m, "null");
}

/* In the order in which json_process() writes them. */
static const char * const json_fields[] = {
	"pid", "ppid", "uid", "command", "state", "threads",
	"user_ns", "system_ns", "start_ns",
	"rss_bytes", "virtual_bytes", "swap_bytes",
	"minor_faults", "major_faults", "read_bytes", "written_bytes",
	"voluntary_switches", "involuntary_switches", "cgroup",
};

static void json_head(struct seq_file *m, struct walk *walk)
{
	int i;

	seq_printf(m, "{\"version\":%d", LATIDO_VERSION);
	seq_printf(m, ",\"now_ns\":%llu", ktime_get_boottime_ns());
	seq_printf(m, ",\"loaded_ns\":%llu", exit_loaded_ns);
	seq_printf(m, ",\"newest_exit\":%llu", walk->span.newest);
	seq_printf(m, ",\"oldest_exit\":%llu", walk->span.oldest);
	seq_puts(m, ",\n\"fields\":");
	for (i = 0; i < ARRAY_SIZE(json_fields); i++)
		seq_printf(m, "%c\"%s\"", i ? ',' : '[', json_fields[i]);
	seq_puts(m, "],\n\"processes\":[");
}

static void json_process(struct seq_file *m, struct walk *walk)
{
	struct latido_record r;

	fill_process(walk, &r);
	seq_put_decimal_ull(m, walk->records ? ",\n[" : "\n[", r.pid);
	seq_put_decimal_ull(m, ",", r.ppid);
	seq_put_decimal_ull(m, ",", r.uid);
	seq_putc(m, ',');
	put_string(m, r.command, strnlen(r.command, sizeof(r.command)));
	seq_putc(m, ',');
	put_string(m, &r.state, 1);
	seq_put_decimal_ull(m, ",", r.threads);
	put_number(m, r.user_ns);
	put_number(m, r.system_ns);
	put_number(m, r.start_ns);
	put_number(m, r.rss_bytes);
	put_number(m, r.virtual_bytes);
	put_number(m, r.swap_bytes);
	put_number(m, r.minor_faults);
	put_number(m, r.major_faults);
	put_number(m, r.read_bytes);
	put_number(m, r.written_bytes);
	put_number(m, r.voluntary_switches);
	put_number(m, r.involuntary_switches);
	put_cgroup(m, walk, r.cgroup);
	seq_putc(m, ']');
	if (!seq_has_overflowed(m))
		count_process(walk, &r);
}

/* The counts stand last: they are those of the very processes above. */
static void json_tail(struct seq_file *m, struct walk *walk)
{
	const char *separator = "";
	int letter;

	seq_printf(m, "\n],\n\"count\":%u,\"threads\":%llu,\"states\":{",
		   walk->records, walk->threads);
	for (letter = 0; letter < ARRAY_SIZE(walk->states); letter++) {
		if (!walk->states[letter])
			continue;
		seq_printf(m, "%s\"%c\":%u", separator, letter, walk->states[letter]);
		separator = ",";
	}
	seq_puts(m, "}}\n");
}

static int json_show(struct seq_file *m, void *v)
{
	struct walk *walk = v;

	if (walk->at == 0)
		json_head(m, walk);
	else if (walk->at < AT_SUMS)
		json_process(m, walk);
	else
		json_tail(m, walk);
	return 0;
}

static const struct seq_operations json_seq = {
	.start	= walk_start,
	.next	= walk_next,
	.stop	= walk_stop,
	.show	= json_show,
};

static const struct seq_operations binary_seq = {
	.start	= walk_start,
	.next	= walk_next,
	.stop	= walk_stop,
	.show	= binary_show,
};

static int walk_release(struct inode *inode, struct file *file)
{
	struct seq_file *m = file->private_data;
	struct walk *walk = m->private;

	kvfree(walk->sum);
	return seq_release_private(inode, file);
}

static int walk_open(struct inode *inode, struct file *file, bool binary)
{
	struct seq_file *m;
	struct walk *walk;
	int error = 0;

	walk = __seq_open_private(file, binary ? &binary_seq : &json_seq, sizeof(*walk));
	if (!walk)
		return -ENOMEM;
	m = file->private_data;
	walk->ns = proc_pid_ns(inode->i_sb);
	walk->users = file->f_cred->user_ns;
	walk->whole = walk->ns == &init_pid_ns;
	walk->binary = binary;
	if (binary) {
		walk->sum = kvmalloc_array(SUM_SLOTS, sizeof(*walk->sum), GFP_KERNEL_ACCOUNT);
		if (!walk->sum)
			error = -ENOMEM;
	}
	error = error ?: latido_preset_buffer(m);
	if (error)
		walk_release(inode, file);
	return error;
}

static int json_open(struct inode *inode, struct file *file)
{
	return walk_open(inode, file, false);
}

static int binary_open(struct inode *inode, struct file *file)
{
	return walk_open(inode, file, true);
}

static int exits_open(struct inode *inode, struct file *file)
{
	return proc_pid_ns(inode->i_sb) == &init_pid_ns ? 0 : -EPERM;
}

/*
 * The position is a number times the size of a record. What fell out of the
 * ring is skipped: every record bears its number, so the reader sees that.
 */
static ssize_t exits_read(struct file *file, char __user *to, size_t size, loff_t *pos)
{
	const size_t each = sizeof(struct latido_record);
	struct latido_record *batch;
	size_t done = 0;
	u64 number, rest;

	number = div64_u64_rem(*pos, each, &rest);
	if (rest || size < each)
		return -EINVAL;
	batch = kvmalloc_array(EXIT_BATCH, each, GFP_KERNEL_ACCOUNT);
	if (!batch)
		return -ENOMEM;
	while (size - done >= each) {
		unsigned int taken = take_exits(&number, batch,
						min_t(size_t, (size - done) / each, EXIT_BATCH));

		if (!taken || fatal_signal_pending(current))
			break;
		if (copy_to_user(to + done, batch, taken * each)) {
			kvfree(batch);
			return -EFAULT;
		}
		done += taken * each;
		*pos = number * each;
		cond_resched();
	}
	kvfree(batch);
	return done;
}

static const struct proc_ops json_ops = {
	.proc_open	= json_open,
	.proc_read_iter	= latido_read_iter,
	.proc_lseek	= seq_lseek,
	.proc_release	= walk_release,
};

static const struct proc_ops binary_ops = {
	.proc_open	= binary_open,
	.proc_read_iter	= latido_read_iter,
	.proc_lseek	= seq_lseek,
	.proc_release	= walk_release,
};

static const struct proc_ops exits_ops = {
	.proc_open	= exits_open,
	.proc_read	= exits_read,
	.proc_lseek	= default_llseek,
};

static const struct {
	const char *name;
	const struct proc_ops *ops;
} files[] = {
	{ "latido_procesos", &json_ops },
	{ "latido_procesos.bin", &binary_ops },
	{ "latido_procesos.exits", &exits_ops },
};

static struct proc_dir_entry *entries[ARRAY_SIZE(files)];

/* proc_remove() waits for readers in a call, and closes what is still open. */
static void remove_files(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(files); i++)
		proc_remove(entries[i]);
}

static int create_files(void)
{
	struct proc_dir_entry *entry;
	int i;

	for (i = 0; i < ARRAY_SIZE(files); i++) {
		entry = latido_create(files[i].name, files[i].ops, gid);
		if (IS_ERR(entry)) {
			remove_files();
			return PTR_ERR(entry);
		}
		entries[i] = entry;
	}
	return 0;
}

static int __init procesos_init(void)
{
	int error;

	BUILD_BUG_ON(sizeof(struct latido_record) != 160);
	BUILD_BUG_ON(sizeof(struct latido_sum) != 112);
	BUILD_BUG_ON(LATIDO_COMMAND != TASK_COMM_LEN);
	BUILD_BUG_ON(PID_MAX_LIMIT >= AT_SUMS);
	if (exits < 64 || exits > 1048576) {
		pr_err("exits=%u: expected 64 to 1048576\n", exits);
		return -EINVAL;
	}
	error = cgroups_init();
	if (error)
		return error;
	error = exits_init(exits);
	if (error)
		goto no_exits;
	error = create_files();
	if (error)
		goto no_files;
	return 0;

no_files:
	exits_exit();
no_exits:
	cgroups_exit();
	return error;
}

static void __exit procesos_exit(void)
{
	remove_files();
	exits_exit();
	cgroups_exit();
}

module_init(procesos_init);
module_exit(procesos_exit);
MODULE_DESCRIPTION("Latido: every process in /proc/latido_procesos");
MODULE_AUTHOR("The Latido authors");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
