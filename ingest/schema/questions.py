"""The questions that people ask of the history, as SQL that stays quick on large tables: one place for all who ask.

Each is a template for `str.format`; what its placeholders take is said below, as SQL: literals, or macros of Grafana
such as `$__timeFrom()`. Times are UTC, a range is (`first`, `last`]. It is the same SQL on MariaDB and MySQL.

Two things keep them quick. A range of time names its hosts by their ids, since only constants make both columns of the
primary key (`host_id`, `sampled_at`) a range; or it goes through `procesos`, which has one row a sample and an index
on its time, and from there by whole keys. And names are joined to sums, not to rows.

- `{hosts}`: ids, comma-separated, as `HOST_IDS` finds them. A host has one for each life of its exporter's spool.
- `{first}`, `{last}`, `{at}`: times.
- `{pid}`, `{start_ticks}`: who a process is; `{cgroup}`: a part of a cgroup's path, such as a container's id, quoted.
- `{step}`: seconds between two points of a curve; `{limit}`: rows.
"""

from __future__ import annotations

from typing import Final

HOST_IDS: Final = "SELECT id FROM hosts WHERE name = {host}"
"""The ids of a host by its name, a quoted string."""

_PROCESS: Final = "g.pid, g.start_ticks, p.uid, p.cgroup"
_SUMS: Final = (
    "SELECT s.host_id, s.pid, s.start_ticks, s.identity, DATE(MAX(s.sampled_at)) AS day,"
    " SUM(s.cpu_delta_ns) AS cpu_ns, MAX(s.rss_bytes) AS rss_bytes"
)
_GROUPS: Final = " GROUP BY s.host_id, s.pid, s.start_ticks, s.identity"
_NAMES: Final = (
    " LEFT JOIN processes p ON p.host_id = g.host_id AND p.day = g.day AND p.pid = g.pid"
    " AND p.start_ticks = g.start_ticks AND p.identity = g.identity"
)
_OF_HOSTS: Final = (
    " FROM process_samples s WHERE s.host_id IN ({hosts}) AND s.sampled_at > {first} AND s.sampled_at <= {last}"
)
_OF_ALL: Final = (
    " FROM procesos t STRAIGHT_JOIN process_samples s"
    " ON s.host_id = t.host_id AND s.sampled_at = t.sampled_at AND s.seq = t.seq"
    " WHERE t.sampled_at > {first} AND t.sampled_at <= {last}"
    " AND s.sampled_at > {first} AND s.sampled_at <= {last}"
)
"""The second range of time is implied by the first; only so do the servers leave other days' partitions alone."""

# The words that make these statements are all of this file.
TOP_PROCESSES: Final = (
    f"SELECT h.name AS host, p.command, {_PROCESS}, g.cpu_ns / 1e9 AS cpu_seconds, g.rss_bytes AS peak_rss_bytes"  # noqa: S608
    f" FROM ({_SUMS}{_OF_HOSTS}{_GROUPS} ORDER BY cpu_ns DESC LIMIT {{limit}}) g"
    f" JOIN hosts h ON h.id = g.host_id{_NAMES} ORDER BY g.cpu_ns DESC"
)
"""The processes of some hosts that used most CPU time in a range."""

TOP_COMMANDS: Final = (
    "SELECT h.name AS host, p.command, COUNT(DISTINCT g.pid, g.start_ticks) AS processes,"  # noqa: S608
    " SUM(g.cpu_ns) / 1e9 AS cpu_seconds, MAX(g.rss_bytes) AS peak_rss_bytes"
    f" FROM ({_SUMS}{_OF_HOSTS}{_GROUPS}) g JOIN hosts h ON h.id = g.host_id{_NAMES}"
    " GROUP BY h.name, p.command ORDER BY cpu_seconds DESC LIMIT {limit}"
)
"""The same by host and command: many that lived a moment count as one."""

FLEET_PROCESSES: Final = (
    f"SELECT h.name AS host, p.command, {_PROCESS}, g.cpu_ns / 1e9 AS cpu_seconds, g.rss_bytes AS peak_rss_bytes"  # noqa: S608
    f" FROM ({_SUMS}{_OF_ALL}{_GROUPS} ORDER BY cpu_ns DESC LIMIT {{limit}}) g"
    f" JOIN hosts h ON h.id = g.host_id{_NAMES} ORDER BY g.cpu_ns DESC"
)
"""The processes of all hosts that used most CPU time in a range."""

FLEET_COMMANDS: Final = (
    "SELECT p.command, COUNT(DISTINCT g.host_id) AS hosts,"  # noqa: S608
    " COUNT(DISTINCT g.host_id, g.pid, g.start_ticks) AS processes,"
    " SUM(g.cpu_ns) / 1e9 AS cpu_seconds, MAX(g.rss_bytes) AS peak_rss_bytes"
    f" FROM ({_SUMS}{_OF_ALL}{_GROUPS}) g{_NAMES}"
    " GROUP BY p.command ORDER BY cpu_seconds DESC LIMIT {limit}"
)
"""The same by command, over all hosts."""

_STEP: Final = "FLOOR((TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {0}) - 1) / ({{step}} * 1000000)) * {{step}}"
"""The epoch second at which the step of a time begins; a step holds its end and not its beginning, as sums do."""

ONE_PROCESS: Final = (
    f"SELECT {_STEP.format('s.sampled_at')} AS time, SUM(s.cpu_delta_ns) / 1e9 / {{step}} AS cpus,"  # noqa: S608
    " MAX(s.rss_bytes) AS rss_bytes, MAX(s.threads) AS threads, MAX(s.read_bytes) AS read_bytes,"
    " MAX(s.written_bytes) AS written_bytes, MAX(s.exited) AS exited"
    " FROM process_samples s WHERE s.host_id IN ({hosts}) AND s.pid = {pid} AND s.start_ticks = {start_ticks}"
    " AND s.sampled_at > {first} AND s.sampled_at <= {last} GROUP BY time ORDER BY time"
)
"""One process in steps: CPUs in use, and memory, threads and I/O since its start as of each step. A step without a row
is one in which it did nothing: memory stays what it was."""

_MEMBERS: Final = (
    "SELECT DISTINCT host_id, day, pid, start_ticks, identity FROM processes"
    " WHERE host_id IN ({hosts}) AND day >= DATE({first}) AND day <= DATE({last})"
    " AND cgroup LIKE CONCAT('%', {cgroup}, '%')"
)

CONTAINER_MEMORY: Final = (
    "SELECT t.sampled_at AS time, SUM(s.rss_bytes) AS rss_bytes, COUNT(*) AS processes"  # noqa: S608
    " FROM procesos t STRAIGHT_JOIN process_samples s"
    " ON s.host_id = t.host_id AND s.sampled_at = t.sampled_at AND s.seq = t.seq AND s.exited = 0"
    f" STRAIGHT_JOIN ({_MEMBERS}) m ON m.host_id = s.host_id AND m.day = DATE(s.sampled_at)"
    " AND m.pid = s.pid AND m.start_ticks = s.start_ticks AND m.identity = s.identity"
    " WHERE t.host_id IN ({hosts}) AND t.keyframe = 1 AND t.sampled_at > {first} AND t.sampled_at <= {last}"
    " AND s.sampled_at > {first} AND s.sampled_at <= {last}"
    " GROUP BY t.sampled_at ORDER BY t.sampled_at"
)
"""Memory of a container, unit or slice at each keyframe, of which there is one every five minutes, of all its processes
together: pages that they share count for each.

The order of the joins is given: by itself MariaDB reads the whole life of each process that ever was in the container.
"""

TABLE_AT: Final = (
    f"SELECT p.command, {_PROCESS}, g.state, g.threads, g.cpu_ns / 1e9 AS cpu_seconds, g.rss_bytes, g.swap_bytes,"  # noqa: S608
    " g.read_bytes, g.written_bytes, g.sampled_at FROM"
    " (SELECT s.*, DATE(s.sampled_at) AS day, ROW_NUMBER() OVER"
    " (PARTITION BY s.host_id, s.pid, s.start_ticks ORDER BY s.seq DESC, s.exited DESC) AS newest"
    " FROM process_samples s JOIN"
    " (SELECT host_id, MAX(seq) AS seq FROM procesos WHERE host_id IN ({hosts}) AND keyframe = 1"
    " AND sampled_at > {at} - INTERVAL 1 HOUR AND sampled_at <= {at} GROUP BY host_id) k"
    " ON k.host_id = s.host_id AND s.seq >= k.seq"
    " WHERE s.host_id IN ({hosts}) AND s.sampled_at > {at} - INTERVAL 1 HOUR AND s.sampled_at <= {at}) g"
    f"{_NAMES} WHERE g.newest = 1 AND g.exited = 0 ORDER BY g.rss_bytes DESC LIMIT {{limit}}"
)
"""The process table of a moment: the last keyframe, less than an hour before it, and what followed.

`latido history` does the same with more care: clocks that were set, boots, two machines with one name."""
