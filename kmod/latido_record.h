/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The binary format of a process: what /proc/latido_procesos.bin and
 * /proc/latido_procesos.exits hold, and what a BPF program writes.
 *
 * ABI.md says what each field means and how the format may change. Every
 * structure is a multiple of 8 bytes and has no hidden padding; numbers are
 * little-endian on every machine that we support. A value that this kernel
 * cannot know is LATIDO_UNKNOWN, never 0.
 *
 * Whoever includes this has the __u8, __u32 and __u64 of <linux/types.h> or
 * vmlinux.h.
 */
#ifndef LATIDO_RECORD_H
#define LATIDO_RECORD_H

#define LATIDO_VERSION	1
#define LATIDO_UNKNOWN	(~0ULL)
#define LATIDO_COMMAND	16	/* TASK_COMM_LEN, its NUL included */
#define LATIDO_HEAD	"LATIDO\n\1"
#define LATIDO_TAIL	"latido\n\2"

/* One process, alive or (end_ns not 0) after its end. */
struct latido_record {
	__u64 number;		/* of this exit, from 1; 0 while alive */
	__u64 start_ns;		/* since boot */
	__u64 end_ns;		/* since boot; 0 while alive */
	__u64 user_ns;		/* of all threads, ended ones included */
	__u64 system_ns;
	__u64 rss_bytes;
	__u64 virtual_bytes;
	__u64 swap_bytes;
	__u64 minor_faults;	/* of all threads, ended ones included */
	__u64 major_faults;
	__u64 read_bytes;	/* of all threads, ended ones included */
	__u64 written_bytes;
	__u64 voluntary_switches;	/* of the main thread, as in /proc */
	__u64 involuntary_switches;
	__u64 cgroup;		/* id in the unified hierarchy (version 2) */
	__u32 pid;		/* thread group id */
	__u32 ppid;		/* 0: none, or not known any more */
	__u32 uid;		/* effective */
	__u32 threads;
	__u8 command[LATIDO_COMMAND];	/* any bytes, padded with NUL */
	__u8 state;		/* letter of proc(5); 'X' after the end */
	__u8 reserved[7];
};

/* All exits since the module was loaded, by command, user and cgroup. */
struct latido_sum {
	__u64 since;		/* number of the first exit in here */
	__u64 exits;
	__u64 user_ns;
	__u64 system_ns;
	__u64 minor_faults;
	__u64 major_faults;
	__u64 read_bytes;
	__u64 written_bytes;
	__u64 voluntary_switches;
	__u64 involuntary_switches;
	__u64 cgroup;
	__u32 uid;
	__u32 flags;		/* LATIDO_SUM_REST */
	__u8 command[LATIDO_COMMAND];
};

/* This sum holds all that found no room among the others. */
#define LATIDO_SUM_REST	1

/* Starts the table. Records follow, then sums, then paths, then the trailer. */
struct latido_header {
	__u8 magic[8];		/* LATIDO_HEAD */
	__u32 version;		/* LATIDO_VERSION */
	__u32 header_bytes;
	__u32 record_bytes;
	__u32 sum_bytes;
	__u64 now_ns;		/* since boot, when the read began */
	__u64 loaded_ns;	/* since boot; exits are numbered anew from here */
	__u64 newest_exit;	/* all exits up to this one are in the sums */
	__u64 oldest_exit;	/* that the ring still holds */
	__u64 reserved;
};

/* Names a cgroup; the path follows, padded with NUL to 8 bytes. */
struct latido_path {
	__u64 cgroup;
	__u32 length;		/* of the path in bytes, padding not counted */
	__u32 reserved;
};

/* Ends the table: without it the table was cut off. */
struct latido_trailer {
	__u8 magic[8];		/* LATIDO_TAIL */
	__u32 records;
	__u32 sums;
	__u32 paths;
	__u32 trailer_bytes;
	__u64 paths_bytes;	/* all latido_path with their text */
	__u64 total_bytes;	/* from the header's first byte to here */
};

#endif /* LATIDO_RECORD_H */
