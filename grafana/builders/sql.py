"""The statements of the panels that ask the database.

Macros and variables are those of Grafana's MySQL data source. What people ask anywhere stands in
`ingest.schema.questions`; here are Grafana's macros for it, and what only panels ask.

Two hidden variables come before them, each one row of literals, so that every panel is a range of a primary key within
the days that it asks about: `streams`, the host's streams in the range, and `moment`, the rows that make up the
process table at the end of the range, as `latido history` finds them: the newest sample's stream, from its last
keyframe on. Times are UTC: the data source sets `time_zone` to +00:00 (grafana/provisioning). The same SQL runs on
MariaDB and MySQL.
"""

from __future__ import annotations

from typing import Final

from ingest.schema import questions

HOSTS: Final = "SELECT DISTINCT name FROM hosts ORDER BY name"

STREAMS: Final = """\
SELECT COALESCE(GROUP_CONCAT(h.id ORDER BY h.id), '0')
FROM hosts h
WHERE h.name = ${host:sqlstring}
  AND EXISTS (
    SELECT 1 FROM procesos p
    WHERE p.host_id = h.id AND p.sampled_at BETWEEN $__timeFrom() - INTERVAL 1 DAY AND $__timeTo()
  )"""

MOMENT: Final = """\
SELECT COALESCE((
  SELECT CONCAT(
    's.host_id = ', n.host_id,
    ' AND s.sampled_at BETWEEN ''', k.sampled_at, ''' AND ''', n.sampled_at,
    ''' AND s.seq BETWEEN ', k.seq, ' AND ', n.seq)
  FROM (
    SELECT host_id, sampled_at, seq FROM procesos
    WHERE host_id IN (${streams:raw}) AND sampled_at BETWEEN $__timeTo() - INTERVAL 1 DAY AND $__timeTo()
    ORDER BY sampled_at DESC, seq DESC LIMIT 1
  ) n
  JOIN procesos k ON k.host_id = n.host_id AND k.keyframe = 1 AND k.seq <= n.seq
    AND k.sampled_at BETWEEN $__timeTo() - INTERVAL 2 DAY AND $__timeTo()
  ORDER BY k.seq DESC LIMIT 1
), 's.host_id = 0')"""

_NAMES: Final = """\
processes p ON p.host_id = {0}.host_id AND p.day = {1} AND p.pid = {0}.pid
  AND p.start_ticks = {0}.start_ticks AND p.identity = {0}.identity"""

_UNIT: Final = """\
COALESCE(
    LEFT(NULLIF(REGEXP_SUBSTR(p.cgroup, '[0-9a-f]{64}'), ''), 12),
    NULLIF(REGEXP_SUBSTR(p.cgroup, '[^/]+[.](service|scope)'), ''),
    p.cgroup,
    '(not known)'
  )"""
"""The container, else the systemd unit, else the cgroup itself. REGEXP_SUBSTR gives '' in MariaDB, NULL in MySQL."""

# --- the table of a moment ---

TABLE: Final = f"""\
WITH newest AS (
  SELECT s.*, ROW_NUMBER() OVER (PARTITION BY s.pid, s.start_ticks ORDER BY s.seq DESC, s.exited DESC) AS nth
  FROM process_samples s
  WHERE ${{moment:raw}}
), minute AS (
  SELECT s.host_id, s.pid, s.start_ticks, SUM(s.cpu_delta_ns) AS cpu_ns
  FROM process_samples s
  WHERE s.host_id IN (${{streams:raw}}) AND s.sampled_at BETWEEN $__timeTo() - INTERVAL 1 MINUTE AND $__timeTo()
  GROUP BY s.host_id, s.pid, s.start_ticks
)
SELECT p.command AS `Command`, n.pid AS `PID`, p.ppid AS `Parent`, p.uid AS `User`, n.state AS `State`,
  n.threads AS `Threads`, COALESCE(m.cpu_ns, 0) / 60e9 AS `CPU, last minute`, n.cpu_ns / 1e9 AS `CPU time`,
  n.rss_bytes AS `Resident`, n.swap_bytes AS `Swap`,
  {_UNIT} AS `Container or unit`,
  UNIX_TIMESTAMP(p.started_at) * 1000 AS `Started`, CONCAT(n.pid, '/', n.start_ticks) AS `Process`
FROM newest n
LEFT JOIN {_NAMES.format("n", "DATE(n.sampled_at)")}
LEFT JOIN minute m ON m.host_id = n.host_id AND m.pid = n.pid AND m.start_ticks = n.start_ticks
WHERE n.nth = 1 AND n.exited = 0
ORDER BY COALESCE(m.cpu_ns, 0) DESC, n.rss_bytes DESC
LIMIT 1000"""

COUNTS: Final = """\
SELECT s.total AS `Processes`, s.threads AS `Threads`, s.running AS `Running`, s.disk_sleep AS `In disk sleep`,
  s.zombie AS `Zombies`, s.stopped + s.traced AS `Stopped`
FROM procesos s
WHERE ${moment:raw}
ORDER BY s.seq DESC LIMIT 1"""

AGE: Final = """\
SELECT UNIX_TIMESTAMP($__timeTo()) - UNIX_TIMESTAMP(s.sampled_at) AS `Age`
FROM procesos s
WHERE ${moment:raw}
ORDER BY s.seq DESC LIMIT 1"""

MEMORY: Final = """\
SELECT available_bytes / total_bytes AS `Available`
FROM ram
WHERE host_id IN (${streams:raw}) AND sampled_at BETWEEN $__timeTo() - INTERVAL 1 DAY AND $__timeTo()
ORDER BY sampled_at DESC, seq DESC LIMIT 1"""

BUSY: Final = """\
WITH times AS (
  SELECT host_id, seq, user_ns + nice_ns + system_ns + irq_ns + softirq_ns + steal_ns AS busy,
    idle_ns + iowait_ns AS idle
  FROM cpu
  WHERE host_id IN (${streams:raw}) AND $__timeFilter(sampled_at)
), steps AS (
  SELECT CAST(busy AS SIGNED) - LAG(CAST(busy AS SIGNED)) OVER (PARTITION BY host_id ORDER BY seq) AS busy,
    CAST(idle AS SIGNED) - LAG(CAST(idle AS SIGNED)) OVER (PARTITION BY host_id ORDER BY seq) AS idle
  FROM times
)
SELECT SUM(busy) / NULLIF(SUM(busy) + SUM(idle), 0) AS `Busy` FROM steps WHERE busy >= 0 AND idle >= 0"""
"""After a boot counters begin at 0: that one step is left out."""

STORED: Final = """\
SELECT h.stream AS `Stream`, COUNT(*) AS `Samples`,
  CAST(MAX(p.seq) AS SIGNED) - CAST(MIN(p.seq) AS SIGNED) + 1 - COUNT(*) AS `Missing`,
  UNIX_TIMESTAMP(MIN(p.sampled_at)) * 1000 AS `First`, UNIX_TIMESTAMP(MAX(p.sampled_at)) * 1000 AS `Last`,
  h.kernel AS `Kernel`, h.boot_id AS `Boot`
FROM procesos p
JOIN hosts h ON h.id = p.host_id
WHERE p.host_id IN (${streams:raw}) AND $__timeFilter(p.sampled_at)
GROUP BY h.id, h.stream, h.kernel, h.boot_id
ORDER BY MAX(p.sampled_at) DESC"""

# --- who used what over the range ---

_SPENT: Final = """\
SELECT s.host_id, DATE(s.sampled_at) AS day, s.pid, s.start_ticks, s.identity, SUM(s.cpu_delta_ns) AS cpu_ns,
    MAX(s.rss_bytes) AS rss_bytes, MAX(s.exited) AS exited
  FROM process_samples s
  WHERE s.host_id IN (${streams:raw}) AND $__timeFilter(s.sampled_at)
  GROUP BY s.host_id, DATE(s.sampled_at), s.pid, s.start_ticks, s.identity"""

_RANGE: Final = {"hosts": "${streams:raw}", "first": "$__timeFrom()", "last": "$__timeTo()"}
_SECONDS: Final = "GREATEST(UNIX_TIMESTAMP($__timeTo()) - UNIX_TIMESTAMP($__timeFrom()), 1)"
_FLEET_SECONDS: Final = 300
_FLEET_FIRST: Final = f"GREATEST($__timeFrom(), $__timeTo() - INTERVAL {_FLEET_SECONDS} SECOND)"

TOP_CPU: Final = f"""\
SELECT COALESCE(command, '(not known)') AS `Command`, cpu_seconds AS `CPU time`,
  cpu_seconds / {_SECONDS} AS `Of one CPU`,
  processes AS `Processes`, peak_rss_bytes AS `Largest`
FROM ({questions.TOP_COMMANDS.format(**_RANGE, limit=20)}) t
ORDER BY cpu_seconds DESC"""

FLEET_CPU: Final = f"""\
SELECT COALESCE(command, '(not known)') AS `Command`, cpu_seconds AS `CPU time`,
  cpu_seconds / LEAST({_SECONDS}, {_FLEET_SECONDS}) AS `Of one CPU`,
  hosts AS `Hosts`, processes AS `Processes`, peak_rss_bytes AS `Largest`
FROM ({questions.FLEET_COMMANDS.format(first=_FLEET_FIRST, last="$__timeTo()", limit=25)}) t
ORDER BY cpu_seconds DESC"""
"""Rows grow with hosts times the range: hence five minutes at most, whatever is picked."""

TOP_MEMORY: Final = f"""\
WITH spent AS (
  {_SPENT}
)
SELECT COALESCE(p.command, '(not known)') AS `Command`, MAX(g.rss_bytes) AS `Largest`, g.pid AS `PID`,
  CONCAT(g.pid, '/', g.start_ticks) AS `Process`
FROM spent g
LEFT JOIN {_NAMES.format("g", "g.day")}
GROUP BY g.host_id, g.pid, g.start_ticks, COALESCE(p.command, '(not known)')
ORDER BY 2 DESC
LIMIT 20"""

TOP_IO: Final = f"""\
WITH grown AS (
  SELECT s.host_id, s.pid, s.start_ticks, MAX(s.sampled_at) AS last_at, MAX(s.identity) AS identity,
    MIN(s.read_bytes) AS first_read, MAX(s.read_bytes) AS last_read,
    MIN(s.written_bytes) AS first_written, MAX(s.written_bytes) AS last_written
  FROM process_samples s
  WHERE s.host_id IN (${{streams:raw}}) AND $__timeFilter(s.sampled_at)
  GROUP BY s.host_id, s.pid, s.start_ticks
), born AS (
  SELECT g.*, p.command,
    IF(p.started_at >= $__timeFrom(), 0, g.first_read) AS read_before,
    IF(p.started_at >= $__timeFrom(), 0, g.first_written) AS written_before
  FROM grown g
  LEFT JOIN {_NAMES.format("g", "DATE(g.last_at)")}
)
SELECT COALESCE(command, '(not known)') AS `Command`, SUM(last_read - read_before) AS `Read`,
  SUM(last_written - written_before) AS `Written`, COUNT(*) AS `Processes`
FROM born
GROUP BY COALESCE(command, '(not known)')
ORDER BY COALESCE(SUM(last_read - read_before), 0) + COALESCE(SUM(last_written - written_before), 0) DESC
LIMIT 20"""
"""A process that began in the range counts from 0, any other from its first sample in it."""

CONTAINERS: Final = f"""\
WITH spent AS (
  {_SPENT}
)
SELECT {_UNIT} AS `Container or unit`, SUM(g.cpu_ns) / 1e9 AS `CPU time`,
  COUNT(DISTINCT g.host_id, g.pid, g.start_ticks) AS `Processes`, MAX(g.rss_bytes) AS `Largest`,
  GROUP_CONCAT(DISTINCT p.command ORDER BY p.command SEPARATOR ' ') AS `Commands`
FROM spent g
LEFT JOIN {_NAMES.format("g", "g.day")}
GROUP BY {_UNIT}
ORDER BY 2 DESC
LIMIT 50"""

SHORT_LIVED: Final = f"""\
SELECT p.command AS `Command`, COUNT(*) AS `Ended`, SUM(s.cpu_ns) / 1e9 AS `CPU time`,
  AVG(UNIX_TIMESTAMP(s.sampled_at) - UNIX_TIMESTAMP(p.started_at)) AS `Lived`
FROM process_samples s
JOIN {_NAMES.format("s", "DATE(s.sampled_at)")}
WHERE s.host_id IN (${{streams:raw}}) AND $__timeFilter(s.sampled_at) AND s.exited = 1
GROUP BY p.command
ORDER BY 2 DESC
LIMIT 20"""
"""Without memory: what has ended has given it back."""

_RANKED: Final = """\
), named AS (
  SELECT b.time, COALESCE(p.command, '(not known)') AS command, SUM(b.amount) AS amount
  FROM buckets b
  LEFT JOIN {names}
  GROUP BY b.time, COALESCE(p.command, '(not known)')
), ranked AS (
  SELECT n.*, SUM(n.amount) OVER (PARTITION BY n.command) AS total FROM named n
), places AS (
  SELECT r.*, DENSE_RANK() OVER (ORDER BY r.total DESC, r.command) AS place FROM ranked r
)
SELECT time, IF(place <= 10, command, 'all others') AS metric, SUM(amount){scale} AS value
FROM places
GROUP BY time, IF(place <= 10, command, 'all others')
ORDER BY time"""
"""The ten largest over the range, each a series, and the rest as one."""

CPU_OVER_TIME: Final = """\
WITH buckets AS (
  SELECT $__timeGroup(s.sampled_at,$__interval) AS time, s.host_id, DATE(s.sampled_at) AS day, s.pid, s.start_ticks,
    s.identity, SUM(s.cpu_delta_ns) AS amount
  FROM process_samples s
  WHERE s.host_id IN (${streams:raw}) AND $__timeFilter(s.sampled_at)
  GROUP BY $__timeGroup(s.sampled_at,$__interval), s.host_id, DATE(s.sampled_at), s.pid, s.start_ticks, s.identity
""" + _RANKED.format(names=_NAMES.format("b", "b.day"), scale=" / 1e6 / $__interval_ms")

MEMORY_OVER_TIME: Final = """\
WITH buckets AS (
  SELECT $__timeGroup(s.sampled_at,$__interval) AS time, s.host_id, DATE(s.sampled_at) AS day, s.pid, s.start_ticks,
    MAX(s.identity) AS identity, MAX(s.rss_bytes) AS amount
  FROM process_samples s
  WHERE s.host_id IN (${streams:raw}) AND $__timeFilter(s.sampled_at) AND s.exited = 0
  GROUP BY $__timeGroup(s.sampled_at,$__interval), s.host_id, DATE(s.sampled_at), s.pid, s.start_ticks
""" + _RANKED.format(names=_NAMES.format("b", "b.day"), scale="")
"""Every sample carries the 50 largest processes, so what matters here is in each."""

# --- one process from birth to exit ---

PROCESSES: Final = f"""\
SELECT CONCAT(g.pid, '/', g.start_ticks) AS __value, CONCAT(COALESCE(MAX(p.command), '?'), ' (', g.pid, ')') AS __text
FROM (
  SELECT s.host_id, s.pid, s.start_ticks, SUM(s.cpu_delta_ns) AS cpu_ns, MAX(s.identity) AS identity,
    MAX(s.sampled_at) AS last_at
  FROM process_samples s
  WHERE s.host_id IN (${{streams:raw}}) AND $__timeFilter(s.sampled_at)
  GROUP BY s.host_id, s.pid, s.start_ticks ORDER BY cpu_ns DESC LIMIT 500
) g
LEFT JOIN {_NAMES.format("g", "DATE(g.last_at)")}
GROUP BY g.host_id, g.pid, g.start_ticks
ORDER BY MAX(g.cpu_ns) DESC"""

_ONE: Final = (
    "s.host_id IN (${streams:raw}) AND s.pid = SUBSTRING_INDEX(${process:sqlstring}, '/', 1) + 0"
    " AND s.start_ticks = SUBSTRING_INDEX(${process:sqlstring}, '/', -1) + 0"
)

LIFE: Final = f"""\
WITH life AS (
  SELECT s.host_id, s.pid, s.start_ticks, MIN(s.sampled_at) AS first_at, MAX(s.sampled_at) AS last_at,
    MAX(s.exited) AS exited, MAX(s.cpu_ns) AS cpu_ns, MAX(s.rss_bytes) AS rss_bytes, MAX(s.threads) AS threads
  FROM process_samples s
  WHERE {_ONE} AND $__timeFilter(s.sampled_at)
  GROUP BY s.host_id, s.pid, s.start_ticks
)
SELECT p.command AS `Command`, l.pid AS `PID`, p.ppid AS `Parent`, p.uid AS `User`,
  UNIX_TIMESTAMP(p.started_at) * 1000 AS `Born`, UNIX_TIMESTAMP(l.first_at) * 1000 AS `First seen`,
  UNIX_TIMESTAMP(l.last_at) * 1000 AS `Last seen`, IF(l.exited, 'ended', 'not in this range') AS `End`,
  l.cpu_ns / 1e9 AS `CPU time`, l.rss_bytes AS `Largest`, l.threads AS `Most threads`,
  {_UNIT} AS `Container or unit`
FROM life l
JOIN processes p ON p.host_id = l.host_id AND p.pid = l.pid AND p.start_ticks = l.start_ticks
  AND p.day BETWEEN DATE(l.first_at) AND DATE(l.last_at)
GROUP BY p.command, l.pid, p.ppid, p.uid, p.started_at, l.first_at, l.last_at, l.exited, l.cpu_ns, l.rss_bytes,
  l.threads, {_UNIT}
LIMIT 50"""
"""A line for each name that it had: more than one after an exec, or when it changed its user or cgroup."""

_STEPS: Final = questions.ONE_PROCESS.format(
    **_RANGE,
    pid="SUBSTRING_INDEX(${process:sqlstring}, '/', 1) + 0",
    start_ticks="SUBSTRING_INDEX(${process:sqlstring}, '/', -1) + 0",
    step="($__interval_ms / 1000)",
)

PROCESS_CPU: Final = f"""\
SELECT CAST(o.time AS SIGNED) AS time, o.cpus AS `CPU`
FROM ({_STEPS}) o
ORDER BY o.time"""

PROCESS_MEMORY: Final = f"""\
SELECT CAST(o.time AS SIGNED) AS time, o.rss_bytes AS `resident`
FROM ({_STEPS}) o
ORDER BY o.time"""

PROCESS_IO: Final = f"""\
SELECT CAST(o.time AS SIGNED) AS time, o.read_bytes AS `read`, o.written_bytes AS `written`
FROM ({_STEPS}) o
ORDER BY o.time"""
"""Since its start: the slope is the rate."""

# --- the pipeline, as the database saw it ---

SAMPLE_AGE: Final = """\
SELECT $__timeGroup(p.received_at,$__interval) AS time, h.name AS metric,
  AVG(TIMESTAMPDIFF(MICROSECOND, p.sampled_at, p.received_at)) / 1e6 AS value
FROM ram p
JOIN hosts h ON h.id = p.host_id
WHERE $__timeFilter(p.received_at)
  AND p.sampled_at BETWEEN $__timeFrom() - INTERVAL 1 DAY AND $__timeTo() + INTERVAL 1 HOUR
GROUP BY $__timeGroup(p.received_at,$__interval), h.name
ORDER BY time"""

NEWEST: Final = """\
SELECT n.name AS `Host`, UNIX_TIMESTAMP(MAX(n.sampled_at)) * 1000 AS `Newest sample`,
  UNIX_TIMESTAMP($__timeTo()) - UNIX_TIMESTAMP(MAX(n.sampled_at)) AS `Age`
FROM (
  SELECT h.name, (
    SELECT r.sampled_at FROM ram r
    WHERE r.host_id = h.id AND r.sampled_at BETWEEN $__timeTo() - INTERVAL 1 DAY AND $__timeTo()
    ORDER BY r.sampled_at DESC LIMIT 1
  ) AS sampled_at
  FROM hosts h
) n
WHERE n.sampled_at IS NOT NULL
GROUP BY n.name
ORDER BY 3 DESC
LIMIT 200"""
"""The end of each stream's index, not its day."""

SIZES: Final = """\
SELECT TABLE_NAME AS `Table`, SUM(TABLE_ROWS) AS `Rows, about`, SUM(DATA_LENGTH) AS `Data`,
  SUM(INDEX_LENGTH) AS `Indexes`, COUNT(*) AS `Days`, MAX(PARTITION_NAME) AS `Last day made`
FROM information_schema.PARTITIONS
WHERE TABLE_SCHEMA = DATABASE() AND PARTITION_NAME IS NOT NULL
GROUP BY TABLE_NAME
ORDER BY 3 DESC"""

STORED_BY: Final = """\
SELECT $__timeGroup(p.received_at,$__interval) AS time, CONCAT('won by ', p.api) AS metric,
  COUNT(*) * 1000 / $__interval_ms AS value
FROM procesos p
WHERE $__timeFilter(p.received_at)
  AND p.sampled_at BETWEEN $__timeFrom() - INTERVAL 1 DAY AND $__timeTo() + INTERVAL 1 HOUR
GROUP BY $__timeGroup(p.received_at,$__interval), p.api
ORDER BY time"""
