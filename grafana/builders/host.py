"""*Host*: one machine; its CPUs, memory and processes by group over time, and its process table."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.builders import board, sql
from grafana.builders.fleet import AVAILABLE, BUSY, DISK_SLEEP, ZOMBIES, alerts_table
from grafana.builders.panels import (
    BAD,
    BYTES,
    BYTES_PER_SECOND,
    COUNT,
    GOOD,
    PER_SECOND,
    PERCENT,
    PROMETHEUS,
    SECONDS,
    TEXT,
    TIME,
    WATCH,
    Column,
    Prom,
    Row,
    Sql,
    stat_panel,
    table_panel,
    timeseries,
)

RATE = "[$__rate_interval]"
GROUPS = 'host="$host",group=~"$group"'

TABLE_COLUMNS = {
    "Command": Column(TEXT, width=170),
    "PID": Column("none", width=90),
    "Parent": Column("none", width=90),
    "User": Column("none", width=80),
    "State": Column(TEXT, width=70),
    "CPU, last minute": Column(PERCENT, bar=True, decimals=1),
    "CPU time": Column(SECONDS, decimals=1),
    "Resident": Column(BYTES),
    "Swap": Column(BYTES),
    "Container or unit": Column(TEXT),
    "Started": Column(TIME),
    "Process": Column(
        TEXT,
        link="/d/latido-moment?var-host=${host}&var-process=${__value.raw:percentencode}&${__url_time_range}",
        width=150,
    ),
}


def build() -> Dashboard:
    """Return the dashboard."""
    group = (
        dashboard.QueryVariable("group")
        .label("Group")
        .description("Groups of processes, by command or by the rules of the host. All of them sum to the whole.")
        .query(
            {
                "query": 'label_values(latido_group_processes{host="$host"}, group)',
                "refId": "PrometheusVariableQueryEditor-VariableQuery",
            }
        )
        .datasource(PROMETHEUS)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )
    return board.board(
        "latido-host",
        "One host: where its CPU time and memory go, by group of processes, and its process table from the database.",
        [_now(), _cpu(), _memory(), _groups(), _processes()],
        variables=[
            board.prometheus_source(),
            board.mysql_source(),
            board.hosts(several=False),
            group,
            board.streams(),
            board.table_of_moment(),
        ],
        annotations=[board.alerts(',host=~"$host|"'), board.restarts("$host")],
        since="now-1h",
        refresh="10s",
    )


def _now() -> Row:
    return Row(
        "Now",
        [
            stat_panel(
                "CPU busy",
                "Share of all CPUs that was not idle, over 5 minutes.",
                PERCENT,
                Prom('host:latido_cpu_busy:ratio_rate5m{host="$host"}', "busy"),
                limit=BUSY,
                width=3,
            ),
            stat_panel(
                "Memory available",
                "Share of memory that new work can have without swapping.",
                PERCENT,
                Prom('host:latido_memory_available:ratio{host="$host"}', "available"),
                limit=AVAILABLE,
                width=3,
            ),
            stat_panel(
                "Load per CPU",
                "Tasks that run or wait for a disk, averaged over 1 minute, for each CPU. Above 1 some wait.",
                COUNT,
                Prom('max(latido_load1{host="$host"}) / max(host:latido_cpus:count{host="$host"})', "load"),
                steps=((None, GOOD), (1.5, WATCH), (4, BAD)),
                decimals=2,
                width=3,
            ),
            stat_panel(
                "Processes",
                "All processes.",
                COUNT,
                Prom('sum(latido_processes{host="$host"})', "processes"),
                width=3,
            ),
            stat_panel(
                "Zombies",
                "Processes that ended and whose parent does not ask for their status.",
                COUNT,
                Prom('sum(latido_processes{host="$host",state="zombie"})', "zombies"),
                limit=ZOMBIES,
                width=3,
            ),
            stat_panel(
                "In disk sleep",
                "Processes that wait for a disk or network file system.",
                COUNT,
                Prom('sum(latido_processes{host="$host",state="disk_sleep"})', "processes"),
                limit=DISK_SLEEP,
                width=3,
            ),
            stat_panel(
                "CPU time in `other`",
                "Share of the groups' CPU time that went to groups without a name of their own. If it is "
                "large, write group "
                "rules or raise --collector.processes.max-groups.",
                PERCENT,
                Prom(
                    f'sum(rate(latido_group_cpu_seconds_total{{host="$host",group="other"}}{RATE}))'
                    f' / sum(rate(latido_group_cpu_seconds_total{{host="$host"}}{RATE}))',
                    "other",
                ),
                steps=((None, GOOD), (0.2, WATCH), (0.5, BAD)),
                width=3,
            ),
            stat_panel(
                "Up for",
                "Time since the machine booted.",
                SECONDS,
                Prom('time() - max(latido_boot_time_seconds{host="$host"})', "up"),
                width=3,
                decimals=1,
            ),
            alerts_table(',host="$host"', "Which alerts fire for this host, the newest first: a leak shows here."),
        ],
    )


def _cpu() -> Row:
    return Row(
        "CPU",
        [
            timeseries(
                "CPU by mode",
                "Where the CPU time of the whole machine goes. 100% is all CPUs. `steal` is other guests of "
                "the same host, "
                "`iowait` is idle time with a disk request under way.",
                PERCENT,
                Prom(
                    f'sum by (mode) (rate(latido_cpu_seconds_total{{host="$host",mode!="idle"}}{RATE}))'
                    ' / on () group_left () max(host:latido_cpus:count{host="$host"})',
                    "{{mode}}",
                ),
                stacked=True,
                maximum=1,
                width=8,
                colors={
                    "user": "blue",
                    "system": "orange",
                    "nice": "light-blue",
                    "iowait": "red",
                    "steal": "purple",
                    "irq": "yellow",
                    "softirq": "dark-yellow",
                },
            ),
            timeseries(
                "CPU by core",
                "How busy each CPU is. One at 100% beside idle ones is a program that cannot use more than one.",
                PERCENT,
                Prom(
                    f'1 - sum by (cpu) (rate(latido_cpu_seconds_total{{host="$host",mode=~"idle|iowait"}}{RATE}))'
                    f' / sum by (cpu) (rate(latido_cpu_seconds_total{{host="$host"}}{RATE}))',
                    "cpu {{cpu}}",
                ),
                maximum=1,
                width=8,
            ),
            timeseries(
                "Load",
                "Tasks that run or wait for a disk, and how many CPUs there are for them.",
                COUNT,
                Prom('max(latido_load1{host="$host"})', "1 minute"),
                Prom('max(latido_load5{host="$host"})', "5 minutes"),
                Prom('max(latido_load15{host="$host"})', "15 minutes"),
                Prom('max(host:latido_cpus:count{host="$host"})', "CPUs"),
                width=8,
                colors={"CPUs": "red"},
            ),
        ],
    )


def _memory() -> Row:
    of = 'max(latido_memory_{}_bytes{{host="$host"}})'
    return Row(
        "Memory and swap",
        [
            timeseries(
                "Memory and swap",
                "What memory is used for. `processes and kernel` is all that is neither cache, buffers, slab "
                "nor free. "
                "Cached memory is given back when it is needed.",
                BYTES,
                Prom(
                    " - ".join(of.format(name) for name in ("total", "free", "cached", "buffers", "slab")),
                    "processes and kernel",
                ),
                Prom(of.format("slab"), "slab"),
                Prom(of.format("buffers"), "buffers"),
                Prom(of.format("cached"), "cached"),
                Prom(of.format("free"), "free"),
                Prom(
                    'max(latido_swap_total_bytes{host="$host"}) - max(latido_swap_free_bytes{host="$host"})',
                    "in swap",
                ),
                stacked=True,
                colors={
                    "processes and kernel": "blue",
                    "slab": "orange",
                    "buffers": "yellow",
                    "cached": "green",
                    "free": "dark-green",
                    "in swap": "red",
                },
            ),
            timeseries(
                "Page faults",
                "Major faults wait for a disk; minor ones do not.",
                PER_SECOND,
                Prom(
                    f'sum by (kind) (rate(latido_group_page_faults_total{{host="$host"}}{RATE}))',
                    "{{kind}}",
                ),
                width=6,
                legend_below=True,
            ),
            timeseries(
                "Context switches and forks",
                "How often CPUs went from one task to another, and how many processes and threads were made.",
                PER_SECOND,
                Prom(f'sum(rate(latido_context_switches_total{{host="$host"}}{RATE}))', "context switches"),
                Prom(f'sum(rate(latido_forks_total{{host="$host"}}{RATE}))', "forks"),
                width=6,
                legend_below=True,
            ),
        ],
    )


def _groups() -> Row:
    other = {"other": "text"}
    return Row(
        "Groups of processes",
        [
            timeseries(
                "CPU by group",
                "CPU time by group: 100% is one CPU. Groups sum to the whole; `other`, in grey, is all without a name.",
                PERCENT,
                Prom(f"sum by (group) (rate(latido_group_cpu_seconds_total{{{GROUPS}}}{RATE}))", "{{group}}"),
                stacked=True,
                colors=other,
                height=10,
            ),
            timeseries(
                "Memory by group",
                "Resident memory by group. A page that several processes share counts in each.",
                BYTES,
                Prom(f"sum by (group) (latido_group_resident_memory_bytes{{{GROUPS}}})", "{{group}}"),
                stacked=True,
                colors=other,
                height=10,
            ),
            timeseries(
                "Disk reads and writes by group",
                "Bytes that went to and came from block devices, the ten largest groups each way. Page cache "
                "hits are not in it.",
                BYTES_PER_SECOND,
                Prom(
                    f"topk(10, sum by (group) (rate(latido_group_read_bytes_total{{{GROUPS}}}{RATE})))",
                    "{{group}} reads",
                ),
                Prom(
                    f"topk(10, sum by (group) (rate(latido_group_written_bytes_total{{{GROUPS}}}{RATE})))",
                    "{{group}} writes",
                ),
                width=8,
            ),
            timeseries(
                "Processes by group",
                "How many processes each of the fifteen largest groups has.",
                COUNT,
                Prom(f"topk(15, sum by (group) (latido_group_processes{{{GROUPS}}}))", "{{group}}"),
                colors=other,
                width=8,
            ),
            timeseries(
                "Processes that end, by group",
                "Processes that were seen at a scrape and had ended at the next, the ten groups with the most. "
                "A steady rate "
                "is a service that dies and is started again, or many short jobs.",
                PER_SECOND,
                Prom(
                    f"topk(10, sum by (group) (rate(latido_group_exits_total{{{GROUPS}}}{RATE})))",
                    "{{group}}",
                ),
                colors=other,
                width=8,
            ),
        ],
    )


def _processes() -> Row:
    return Row(
        "Processes",
        [
            timeseries(
                "Processes by state",
                "All processes by state.",
                COUNT,
                Prom('sum by (state) (latido_processes{host="$host"}) > 0', "{{state}}"),
                stacked=True,
                width=8,
                height=11,
                colors={"zombie": "purple", "disk_sleep": "red", "running": "green", "sleeping": "blue"},
            ),
            table_panel(
                "Process table",
                "Every process at the end of the range, from the database: live while the range ends now. "
                "Click the last column to follow a process through time.",
                TABLE_COLUMNS,
                Sql(sql.TABLE),
                width=16,
                height=11,
                sort="CPU, last minute",
            ),
        ],
    )
