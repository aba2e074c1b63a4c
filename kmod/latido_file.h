/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A /proc file that gives all it has to one read(2), for a group.
 *
 * A seq_file stops at its buffer, one page unless told otherwise. Here the
 * buffer is larger, and a read goes on until the caller's is full: what is
 * held under RCU stays one buffer long, while the document comes in one call.
 */
#ifndef LATIDO_FILE_H
#define LATIDO_FILE_H

#include <linux/mm.h>
#include <linux/proc_fs.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uidgid.h>
#include <linux/uio.h>
#include <linux/user_namespace.h>

#define LATIDO_BUFFER	(64 * 1024)

static inline ssize_t latido_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	ssize_t done = 0, got;

	do {
		got = seq_read_iter(iocb, to);
		if (got <= 0)
			break;
		done += got;
		cond_resched();
	} while (iov_iter_count(to) && !fatal_signal_pending(current));

	return done ?: got;
}

/* seq_release() frees what this allocates. */
static inline int latido_preset_buffer(struct seq_file *m)
{
	m->buf = kvmalloc(LATIDO_BUFFER, GFP_KERNEL_ACCOUNT);
	if (!m->buf)
		return -ENOMEM;
	m->size = LATIDO_BUFFER;
	return 0;
}

/*
 * Readable by root and one group: a table of every process that all may read
 * would undo hidepid=. A group that is no valid id is refused.
 */
static inline struct proc_dir_entry *
latido_create(const char *name, const struct proc_ops *ops, unsigned int gid)
{
	kgid_t group = make_kgid(&init_user_ns, gid);
	struct proc_dir_entry *entry;

	if (!gid_valid(group))
		return ERR_PTR(-EINVAL);
	entry = proc_create(name, 0440, NULL, ops);
	if (!entry)
		return ERR_PTR(-ENOMEM);
	proc_set_user(entry, GLOBAL_ROOT_UID, group);
	return entry;
}

#endif /* LATIDO_FILE_H */
