// SPDX-License-Identifier: GPL-2.0
/*
 * Every process in one read, and every one that ended, as struct latido_record.
 *
 * The iterator gives each thread group leader; its last call gives a trailer.
 * Ends go to a ring in memory that user space reads directly. One that finds
 * no room there is added to a sum by command, user and cgroup, and to the last
 * of all sums where there are too many: nothing that was used is lost.
 */
#include "account.h"

#include <bpf/bpf_tracing.h>

#define SUMS		1024
#define NOTES		16384
#define RING_BYTES	(1 << 21)	/* 12,483 records of 160 bytes and 8 before each */

char LICENSE[] SEC("license") = "GPL";

struct sum_key {
	__u8 command[LATIDO_COMMAND];
	__u64 cgroup;
	__u32 uid;
	__u32 reserved;
};

/* What is gone when a task is freed, noted as it exits. */
struct note {
	__u64 end_ns;
	__u32 ppid;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SUMS);
	__type(key, struct sum_key);
	__type(value, struct latido_sum);
} sums SEC(".maps");

/* By the address of its signal_struct, which lives until its last task is freed. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, NOTES);
	__type(key, __u64);
	__type(value, struct note);
} notes SEC(".maps");

/* Read by user space through the map's memory. */
struct {
	__u64 newest;		/* number of the latest exit */
	__u64 overflowed;	/* exits that are in the sums */
	struct latido_sum rest;
	__u32 records;		/* of the walk under way */
	__u32 reserved;
} shared = {};

static __always_inline void fill_process(struct task_struct *task, struct latido_record *record)
{
	struct usage usage;

	record->pid = task->tgid;
	record->ppid = task->real_parent->tgid;
	record->uid = task->real_cred->euid.val;
	record->threads = task->signal->nr_threads;
	record->state = state_letter(task);
	record->start_ns = task->start_boottime;
	record->voluntary_switches = task->nvcsw;
	record->involuntary_switches = task->nivcsw;
	record->cgroup = cgroup_of(task);
	bpf_probe_read_kernel_str(record->command, sizeof(record->command), task->comm);
	sum_threads(task, &usage);
	fill_usage(task->signal, &usage, record);
	fill_memory(task, record);
}

static __always_inline void write_trailer(struct seq_file *seq)
{
	struct latido_trailer trailer = {
		.records = shared.records,
		.trailer_bytes = sizeof(trailer),
		.total_bytes = (__u64)shared.records * sizeof(struct latido_record) + sizeof(trailer),
	};

	__builtin_memcpy(trailer.magic, LATIDO_TAIL, sizeof(trailer.magic));
	bpf_seq_write(seq, &trailer, sizeof(trailer));
}

static __always_inline void begin_walk(void)
{
	struct cpu_offsets *cpus = cpu_offsets();

	shared.records = 0;
	if (cpus && !cpus->known)
		learn_cpus(cpus);
}

/* What does not fit the buffer is shown again in the next: count what did. */
SEC("iter/task")
int dump_process(struct bpf_iter__task *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct task_struct *task = ctx->task;
	struct latido_record record = {};

	if (ctx->meta->seq_num == 0)
		begin_walk();
	if (!task) {
		write_trailer(seq);
		return 0;
	}
	if (task->pid != task->tgid)
		return 0;
	fill_process(task, &record);
	if (!bpf_seq_write(seq, &record, sizeof(record)))
		shared.records++;
	return 0;
}

/*
 * Several threads may pass here after the last of them was counted out; they
 * note the same.
 */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(note_exit, struct task_struct *task)
{
	__u64 key = (__u64)task->signal;
	struct note note = {};

	if (task->signal->live.counter)
		return 0;
	note.end_ns = bpf_ktime_get_boot_ns();
	note.ppid = task->group_leader->real_parent->tgid;
	bpf_map_update_elem(&notes, &key, &note, BPF_ANY);
	return 0;
}

static __always_inline void recall_exit(struct task_struct *leader, struct latido_record *record)
{
	__u64 key = (__u64)leader->signal;
	struct note *note = bpf_map_lookup_elem(&notes, &key);

	if (!note) {
		record->end_ns = bpf_ktime_get_boot_ns();
		return;
	}
	record->end_ns = note->end_ns;
	record->ppid = note->ppid;
	bpf_map_delete_elem(&notes, &key);
}

/*
 * By now signal_struct holds every thread as it was at its release, and the
 * leader has run its last: where it was alone its own clock is exact.
 */
static __always_inline void fill_exit(struct task_struct *leader, struct latido_record *record)
{
	__u64 own = leader->se.sum_exec_runtime;
	struct usage usage;

	ended_threads(leader->signal, &usage);
	if (usage.runtime < own)
		usage.runtime = own;
	fill_usage(leader->signal, &usage, record);
	record->start_ns = leader->start_boottime;
	record->voluntary_switches = leader->nvcsw;
	record->involuntary_switches = leader->nivcsw;
	record->pid = leader->tgid;
	record->uid = leader->real_cred->euid.val;
	record->cgroup = cgroup_of(leader);
	record->state = 'X';
	bpf_probe_read_kernel_str(record->command, sizeof(record->command), leader->comm);
	recall_exit(leader, record);
}

static __always_inline void add(__u64 *sum, __u64 value)
{
	__sync_fetch_and_add(sum, value);
}

static __always_inline void add_to(struct latido_sum *sum, const struct latido_record *record)
{
	add(&sum->exits, 1);
	add(&sum->user_ns, record->user_ns);
	add(&sum->system_ns, record->system_ns);
	add(&sum->minor_faults, record->minor_faults);
	add(&sum->major_faults, record->major_faults);
	if (counts_io()) {
		add(&sum->read_bytes, record->read_bytes);
		add(&sum->written_bytes, record->written_bytes);
	}
	add(&sum->voluntary_switches, record->voluntary_switches);
	add(&sum->involuntary_switches, record->involuntary_switches);
}

static __always_inline void sum_exit(const struct latido_record *record)
{
	struct sum_key key = { .cgroup = record->cgroup, .uid = record->uid };
	struct latido_sum *sum;

	__builtin_memcpy(key.command, record->command, sizeof(key.command));
	sum = bpf_map_lookup_elem(&sums, &key);
	if (!sum) {
		struct latido_sum empty = {
			.since = record->number, .cgroup = key.cgroup, .uid = key.uid,
		};

		__builtin_memcpy(empty.command, key.command, sizeof(empty.command));
		if (!counts_io()) {
			empty.read_bytes = LATIDO_UNKNOWN;
			empty.written_bytes = LATIDO_UNKNOWN;
		}
		/* Another CPU may have been first: then this fails, and finds it. */
		bpf_map_update_elem(&sums, &key, &empty, BPF_NOEXIST);
		sum = bpf_map_lookup_elem(&sums, &key);
	}
	add_to(sum ? sum : &shared.rest, record);
	add(&shared.overflowed, 1);
}

/*
 * Recorded when the kernel frees the last of a process, not when it starts to
 * exit: only then has the scheduler added its last slice, which for a process
 * of 3 ms may be all that it used, and until then a zombie is in the table.
 * A leader that another thread replaced by exec is no leader any more.
 */
SEC("tp_btf/sched_process_free")
int BPF_PROG(record_exit, struct task_struct *task)
{
	struct latido_record record = {};

	if (task->exit_signal < 0)
		return 0;
	fill_exit(task, &record);
	record.number = __sync_fetch_and_add(&shared.newest, 1) + 1;
	if (bpf_ringbuf_output(&ring, &record, sizeof(record), BPF_RB_NO_WAKEUP))
		sum_exit(&record);
	return 0;
}
