/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Names of cgroups, kept by id: a record holds 8 bytes, the path is said once.
 *
 * A name outlives its cgroup, so an exit that is read after a container is
 * gone still says where it ran. The table is of fixed size. When it is full
 * the name that was not asked for longest makes room (second chance, by a
 * hand that goes round), and a record of it has an id without a name.
 */
#ifndef LATIDO_CGROUPS_H
#define LATIDO_CGROUPS_H

#include <linux/bitops.h>
#include <linux/cgroup.h>
#include <linux/hash.h>
#include <linux/kernfs.h>
#include <linux/list.h>
#include <linux/percpu.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "latido_record.h"

#define CGROUP_SLOTS	2048
#define CGROUP_TEXT	488	/* a slot is 512 bytes, 1 MiB in all */
#define CGROUP_BUCKETS	1024

struct cgroup_slot {
	struct hlist_node node;
	u64 id;
	u16 length;		/* 0: free */
	bool asked;
	char text[CGROUP_TEXT - 4];
};

struct cgroup_scratch {
	char text[PATH_MAX];
};

static struct cgroup_slot *cgroup_slots;
static struct hlist_head cgroup_buckets[CGROUP_BUCKETS];
static unsigned int cgroup_hand;
static DEFINE_RAW_SPINLOCK(cgroup_slots_lock);
static struct cgroup_scratch __percpu *cgroup_scratch;

static int cgroups_init(void)
{
	cgroup_scratch = alloc_percpu(struct cgroup_scratch);
	cgroup_slots = vzalloc(array_size(CGROUP_SLOTS, sizeof(*cgroup_slots)));
	if (cgroup_scratch && cgroup_slots)
		return 0;
	free_percpu(cgroup_scratch);
	vfree(cgroup_slots);
	return -ENOMEM;
}

static void cgroups_exit(void)
{
	free_percpu(cgroup_scratch);
	vfree(cgroup_slots);
}

#ifdef CONFIG_CGROUPS

static struct hlist_head *cgroup_bucket(u64 id)
{
	return &cgroup_buckets[hash_64(id, ilog2(CGROUP_BUCKETS))];
}

static struct cgroup_slot *find_cgroup(u64 id)
{
	struct cgroup_slot *slot;

	hlist_for_each_entry(slot, cgroup_bucket(id), node)
		if (slot->id == id)
			return slot;
	return NULL;
}

/* Marks that a name was asked for; `seen`, where given, has a bit a slot. */
static void mark_slot(struct cgroup_slot *slot, unsigned long *seen)
{
	slot->asked = true;
	if (seen)
		__set_bit(slot - cgroup_slots, seen);
}

static bool cgroup_is_known(u64 id, unsigned long *seen)
{
	struct cgroup_slot *slot;
	unsigned long flags;

	raw_spin_lock_irqsave(&cgroup_slots_lock, flags);
	slot = find_cgroup(id);
	if (slot)
		mark_slot(slot, seen);
	raw_spin_unlock_irqrestore(&cgroup_slots_lock, flags);
	return slot;
}

/* Ends after two rounds at most: the first takes every mark away. */
static struct cgroup_slot *claim_slot(void)
{
	struct cgroup_slot *slot;

	for (;;) {
		slot = &cgroup_slots[cgroup_hand];
		cgroup_hand = (cgroup_hand + 1) % CGROUP_SLOTS;
		if (!slot->length)
			return slot;
		if (!slot->asked) {
			hlist_del(&slot->node);
			return slot;
		}
		slot->asked = false;
	}
}

/* Of a path too long for its slot the end says more: three dots, then that. */
static void set_text(struct cgroup_slot *slot, const char *path, size_t length)
{
	const size_t room = sizeof(slot->text);

	if (length <= room) {
		memcpy(slot->text, path, length);
	} else {
		memcpy(slot->text, "...", 3);
		memcpy(slot->text + 3, path + length - (room - 3), room - 3);
		length = room;
	}
	slot->length = length;
}

static void keep_cgroup(u64 id, const char *path, size_t length,
			unsigned long *seen)
{
	struct cgroup_slot *slot;
	unsigned long flags;

	raw_spin_lock_irqsave(&cgroup_slots_lock, flags);
	slot = find_cgroup(id);
	if (!slot) {
		slot = claim_slot();
		set_text(slot, path, length);
		slot->id = id;
		hlist_add_head(&slot->node, cgroup_bucket(id));
	}
	mark_slot(slot, seen);
	raw_spin_unlock_irqrestore(&cgroup_slots_lock, flags);
}

/*
 * kernfs_path() takes a lock that sleeps on a real-time kernel, so it is
 * called outside of ours; there, a probe learns no name and a read does.
 */
static void learn_cgroup(struct cgroup *cgroup, unsigned long *seen)
{
	struct cgroup_scratch *scratch;
	int length;

	if (cgroup_is_known(cgroup_id(cgroup), seen))
		return;
	if (IS_ENABLED(CONFIG_PREEMPT_RT) && !preemptible())
		return;
	local_bh_disable();
	scratch = this_cpu_ptr(cgroup_scratch);
	length = kernfs_path(cgroup->kn, scratch->text, sizeof(scratch->text));
	if (length > 0 && length < sizeof(scratch->text))
		keep_cgroup(cgroup_id(cgroup), scratch->text, length, seen);
	local_bh_enable();
}

/* Call under RCU. A task that exits keeps its cgroup until it is freed. */
static u64 task_cgroup_id(struct task_struct *task, unsigned long *seen)
{
	struct cgroup *cgroup = task_dfl_cgroup(task);

	learn_cgroup(cgroup, seen);
	return cgroup_id(cgroup);
}

#else /* !CONFIG_CGROUPS */

static struct cgroup_slot *find_cgroup(u64 id)
{
	return NULL;
}

static u64 task_cgroup_id(struct task_struct *task, unsigned long *seen)
{
	return LATIDO_UNKNOWN;
}

#endif

/* Returns the length of the path, and 0 where its name is not known. */
static size_t copy_cgroup_path(u64 id, char path[CGROUP_TEXT])
{
	struct cgroup_slot *slot;
	unsigned long flags;
	size_t length = 0;

	raw_spin_lock_irqsave(&cgroup_slots_lock, flags);
	slot = find_cgroup(id);
	if (slot) {
		length = slot->length;
		memcpy(path, slot->text, length);
	}
	raw_spin_unlock_irqrestore(&cgroup_slots_lock, flags);
	return length;
}

/* The same by place, for going through all. */
static size_t copy_cgroup_slot(unsigned int place, u64 *id, char path[CGROUP_TEXT])
{
	struct cgroup_slot *slot = &cgroup_slots[place];
	unsigned long flags;
	size_t length;

	raw_spin_lock_irqsave(&cgroup_slots_lock, flags);
	*id = slot->id;
	length = slot->length;
	memcpy(path, slot->text, length);
	raw_spin_unlock_irqrestore(&cgroup_slots_lock, flags);
	return length;
}

#endif /* LATIDO_CGROUPS_H */
