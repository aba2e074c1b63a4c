"""The six tables of the first version.

Plain SQL, since it is about what the server keeps: partitions, character sets and keys. Integers are as wide as their
range in `ingest.contract.limits`; times are UTC in DATETIME(3), since TIMESTAMP ends in 2038.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from alembic import context, op

from ingest.schema import partitions

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_OPTIONS = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"

_HOSTS = """
CREATE TABLE IF NOT EXISTS hosts (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT,
  name VARCHAR(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  stream CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  boot_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  kernel VARCHAR(255) NOT NULL,
  created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
  PRIMARY KEY (id),
  UNIQUE KEY name_stream (name, stream)
)"""

# What every feed's table begins and ends with. `api` and `batch_id` say who stored a sample and in which request.
_FRAME = """
  host_id INT UNSIGNED NOT NULL,
  sampled_at DATETIME(3) NOT NULL,
  seq BIGINT UNSIGNED NOT NULL,"""
_STORED = """
  api ENUM('raw', 'orm') NOT NULL,
  batch_id BIGINT UNSIGNED NOT NULL,
  received_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
  PRIMARY KEY (host_id, sampled_at, seq),
  KEY received_at (received_at)"""

_RAM = f"""
CREATE TABLE IF NOT EXISTS ram ({_FRAME}
  total_bytes BIGINT UNSIGNED NOT NULL,
  free_bytes BIGINT UNSIGNED NOT NULL,
  available_bytes BIGINT UNSIGNED NOT NULL,
  cached_bytes BIGINT UNSIGNED NOT NULL,
  buffers_bytes BIGINT UNSIGNED NOT NULL,
  swap_total_bytes BIGINT UNSIGNED NOT NULL,
  swap_free_bytes BIGINT UNSIGNED NOT NULL,
  shared_bytes BIGINT UNSIGNED NULL,
  slab_bytes BIGINT UNSIGNED NULL,{_STORED}
)"""

_CPU = f"""
CREATE TABLE IF NOT EXISTS cpu ({_FRAME}
  user_ns BIGINT UNSIGNED NOT NULL,
  nice_ns BIGINT UNSIGNED NOT NULL,
  system_ns BIGINT UNSIGNED NOT NULL,
  idle_ns BIGINT UNSIGNED NOT NULL,
  iowait_ns BIGINT UNSIGNED NOT NULL,
  irq_ns BIGINT UNSIGNED NOT NULL,
  softirq_ns BIGINT UNSIGNED NOT NULL,
  steal_ns BIGINT UNSIGNED NOT NULL,
  guest_ns BIGINT UNSIGNED NOT NULL,
  guest_nice_ns BIGINT UNSIGNED NOT NULL,
  load1_milli BIGINT UNSIGNED NOT NULL,
  load5_milli BIGINT UNSIGNED NOT NULL,
  load15_milli BIGINT UNSIGNED NOT NULL,
  context_switches BIGINT UNSIGNED NOT NULL,
  forks BIGINT UNSIGNED NOT NULL,
  cores JSON NOT NULL,{_STORED}
)"""

_PROCESOS = f"""
CREATE TABLE IF NOT EXISTS procesos ({_FRAME}
  keyframe BOOLEAN NOT NULL,
  total INT UNSIGNED NOT NULL,
  threads INT UNSIGNED NOT NULL,
  running INT UNSIGNED NOT NULL,
  sleeping INT UNSIGNED NOT NULL,
  disk_sleep INT UNSIGNED NOT NULL,
  stopped INT UNSIGNED NOT NULL,
  traced INT UNSIGNED NOT NULL,
  zombie INT UNSIGNED NOT NULL,
  dead INT UNSIGNED NOT NULL,
  idle INT UNSIGNED NOT NULL,
  parked INT UNSIGNED NOT NULL,
  other INT UNSIGNED NOT NULL,
  processes_carried INT UNSIGNED NOT NULL,
  exited_carried INT UNSIGNED NOT NULL,{_STORED},
  KEY keyframes (host_id, keyframe, sampled_at)
)"""

_PROCESS_SAMPLES = f"""
CREATE TABLE IF NOT EXISTS process_samples ({_FRAME}
  pid INT UNSIGNED NOT NULL,
  start_ticks BIGINT UNSIGNED NOT NULL,
  exited BOOLEAN NOT NULL,
  identity BIGINT UNSIGNED NOT NULL,
  state CHAR(1) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  threads INT UNSIGNED NOT NULL,
  cpu_ns BIGINT UNSIGNED NOT NULL,
  cpu_delta_ns BIGINT UNSIGNED NOT NULL,
  user_ns BIGINT UNSIGNED NOT NULL,
  rss_bytes BIGINT UNSIGNED NOT NULL,
  virtual_bytes BIGINT UNSIGNED NOT NULL,
  minor_faults BIGINT UNSIGNED NOT NULL,
  major_faults BIGINT UNSIGNED NOT NULL,
  swap_bytes BIGINT UNSIGNED NULL,
  read_bytes BIGINT UNSIGNED NULL,
  written_bytes BIGINT UNSIGNED NULL,
  voluntary_switches BIGINT UNSIGNED NULL,
  involuntary_switches BIGINT UNSIGNED NULL,
  PRIMARY KEY (host_id, sampled_at, seq, pid, start_ticks),
  KEY one_process (host_id, pid, start_ticks, sampled_at)
)"""

_PROCESSES = """
CREATE TABLE IF NOT EXISTS processes (
  host_id INT UNSIGNED NOT NULL,
  day DATE NOT NULL,
  pid INT UNSIGNED NOT NULL,
  start_ticks BIGINT UNSIGNED NOT NULL,
  identity BIGINT UNSIGNED NOT NULL,
  command VARCHAR(64) NOT NULL,
  uid INT UNSIGNED NOT NULL,
  cgroup VARCHAR(1024) NULL,
  ppid INT UNSIGNED NOT NULL,
  started_at DATETIME(3) NOT NULL,
  PRIMARY KEY (host_id, day, pid, start_ticks, identity)
)"""


def upgrade() -> None:
    """Create the tables; the first days come from `ingest.schema.upgrade`."""
    first_days: Sequence[date] = context.config.attributes["first_days"]
    op.execute(f"{_HOSTS} {_OPTIONS}")
    for table in (_RAM, _CPU, _PROCESOS, _PROCESS_SAMPLES):
        op.execute(f"{table} {_OPTIONS} PARTITION BY RANGE COLUMNS (sampled_at) {partitions.definitions(first_days)}")
    op.execute(f"{_PROCESSES} {_OPTIONS} PARTITION BY RANGE COLUMNS (day) {partitions.definitions(first_days)}")


def downgrade() -> None:
    """Drop the tables and all that they hold."""
    for table in ("processes", "process_samples", "procesos", "cpu", "ram", "hosts"):
        op.execute(f"DROP TABLE IF EXISTS {table}")
