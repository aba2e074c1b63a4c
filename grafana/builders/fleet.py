"""*Fleet*: is anything wrong, where, and what changed in the last hour."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.builders import board, sql
from grafana.builders.panels import (
    BAD,
    BYTES,
    COUNT,
    GOOD,
    PER_SECOND,
    PERCENT,
    SECONDS,
    TEXT,
    WATCH,
    AnyPanel,
    Column,
    Limit,
    Prom,
    Row,
    Sql,
    stat_panel,
    table_panel,
    timeseries,
)

BUSY = Limit("host_cpu_busy_ratio", 0.8)
AVAILABLE = Limit("host_memory_available_ratio", 0.15, below=True)
SWAP = Limit("host_swap_used_ratio", 0.5)
ZOMBIES = Limit("group_zombies", 5)
DISK_SLEEP = Limit("host_disk_sleep_processes", 3)
AGE = Limit("sample_age_p99_seconds", 5)

TO_HOST = "/d/latido-host?var-host=${__data.fields.host}&${__url_time_range}"


def build() -> Dashboard:
    """Return the dashboard."""
    return board.board(
        "latido-fleet",
        "All hosts: health first, then the hottest, then what changed. A host's name leads to its own dashboard.",
        [_health(), _hottest(), _pressure(), _states(), _changes()],
        variables=[board.prometheus_source(), board.mysql_source(), board.hosts(several=True)],
        annotations=[board.alerts(""), board.restarts("$host")],
        since="now-1h",
        refresh="30s",
    )


def _health() -> Row:
    return Row(
        "Is anything wrong?",
        [
            stat_panel(
                "Alerts firing",
                "Alerts of prometheus/rules that fire now. Each has a section in the runbook.",
                COUNT,
                Prom('count(ALERTS{alertstate="firing",alertname=~"Latido.*"}) or vector(0)', "alerts"),
                steps=((None, GOOD), (1, BAD)),
            ),
            stat_panel(
                "Hosts that answer",
                "Exporters whose last scrape worked.",
                COUNT,
                Prom('sum(up{job="latido-exporter",host=~"$host"})', "hosts"),
                steps=((None, BAD), (1, GOOD)),
            ),
            stat_panel(
                "Hosts that do not",
                "Exporters whose last scrape failed: the host, its network or the exporter is down.",
                COUNT,
                Prom('sum(1 - up{job="latido-exporter",host=~"$host"})', "hosts"),
                steps=((None, GOOD), (1, BAD)),
            ),
            stat_panel(
                "APIs and bridges down",
                "Programs of the pipeline whose last scrape failed.",
                COUNT,
                Prom('sum(1 - up{job=~"latido-ingest-.+|latido-bridge"})', "programs"),
                steps=((None, GOOD), (1, BAD)),
            ),
            stat_panel(
                "CPU busy",
                "Share of all CPUs of the chosen hosts that was not idle, over 5 minutes.",
                PERCENT,
                Prom(
                    'sum(host:latido_cpu_busy:ratio_rate5m{host=~"$host"} * host:latido_cpus:count{host=~"$host"})'
                    ' / sum(host:latido_cpus:count{host=~"$host"})',
                    "busy",
                ),
                limit=BUSY,
            ),
            stat_panel(
                "Oldest unsent sample",
                "Age of the oldest sample in any spool: how far the history of the worst host lags behind.",
                SECONDS,
                Prom('max(latido_spool_oldest_sample_age_seconds{host=~"$host"})', "age"),
                limit=Limit("spool_oldest_sample_age_seconds", 60),
            ),
            alerts_table("", "Which alerts fire, the newest first. The runbook has a section for each."),
        ],
    )


def alerts_table(selector: str, description: str) -> AnyPanel:
    """Return the alerts that fire and since when; `selector` is a matcher that narrows them."""
    labels = "alertname, severity, host, group, job"
    firing = f'ALERTS{{alertstate="firing",alertname=~"Latido.*"{selector}}}'
    since = f'ALERTS_FOR_STATE{{alertname=~"Latido.*"{selector}}}'
    return table_panel(
        "Alerts",
        description,
        {
            "alertname": Column(TEXT, width=230),
            "severity": Column(TEXT, width=100, words={"critical": BAD, "warning": WATCH}),
            "host": Column(TEXT, link=TO_HOST, width=160),
            "group": Column(TEXT, width=160),
            "job": Column(TEXT, width=180),
            "Since": Column(SECONDS, decimals=0),
        },
        Prom(f"time() - max by ({labels}) ({since}) and max by ({labels}) ({firing})", "Since"),
        by=labels,
        sort="Since",
        descending=False,
        height=6,
        empty="no alert fires",
    )


def _hottest() -> Row:
    def of(metric: str) -> str:
        """Without the metric's name, which is a column in Grafana and would keep rows from being joined."""
        return f'max by (host) ({metric}{{host=~"$host"}})'

    return Row(
        "The hottest hosts",
        [
            table_panel(
                "Hosts",
                "Every chosen host, the busiest first. Red is where an alert fires if it lasts. Click a name "
                "for the host.",
                {
                    "host": Column(TEXT, link=TO_HOST, width=200),
                    "CPU busy": Column(PERCENT, BUSY, bar=True, decimals=1),
                    "Memory available": Column(PERCENT, AVAILABLE, decimals=1),
                    "Swap used": Column(PERCENT, SWAP, decimals=1),
                    "Load per CPU": Column(COUNT, steps=((None, GOOD), (1.5, WATCH), (4, BAD)), decimals=2),
                    "In disk sleep": Column(COUNT, DISK_SLEEP),
                    "Zombies": Column(COUNT, ZOMBIES),
                    "Processes": Column(COUNT),
                    "Up for": Column(SECONDS, decimals=0),
                },
                Prom(of("host:latido_cpu_busy:ratio_rate5m"), "CPU busy"),
                Prom(of("host:latido_memory_available:ratio"), "Memory available"),
                Prom(of("host:latido_swap_used:ratio"), "Swap used"),
                Prom(f'{of("latido_load1")} / host:latido_cpus:count{{host=~"$host"}}', "Load per CPU"),
                Prom('max by (host) (latido_processes{host=~"$host",state="disk_sleep"})', "In disk sleep"),
                Prom('max by (host) (latido_processes{host=~"$host",state="zombie"})', "Zombies"),
                Prom('sum by (host) (latido_processes{host=~"$host"})', "Processes"),
                Prom(f"time() - {of('latido_boot_time_seconds')}", "Up for"),
                by="host",
                sort="CPU busy",
                height=10,
            ),
            timeseries(
                "Busiest hosts",
                "The ten hosts with the least idle CPU time. The dashed line is the threshold of "
                "LatidoHostCpuSaturated.",
                PERCENT,
                Prom(
                    'topk(10, 1 - sum by (host) (rate(latido_cpu_seconds_total{host=~"$host",mode=~"idle|iowait"}'
                    "[$__rate_interval]))"
                    ' / sum by (host) (rate(latido_cpu_seconds_total{host=~"$host"}[$__rate_interval])))',
                    "{{host}}",
                ),
                limit=BUSY,
                maximum=1,
            ),
            timeseries(
                "Busiest groups of all hosts",
                "CPU time of the ten busiest groups, over all chosen hosts: 100% is one CPU. `other` is what "
                "has no name of its own.",
                PERCENT,
                Prom(
                    'topk(10, sum by (group) (rate(latido_group_cpu_seconds_total{host=~"$host"}[$__rate_interval])))',
                    "{{group}}",
                ),
                colors={"other": "text"},
            ),
        ],
    )


def _pressure() -> Row:
    return Row(
        "Memory pressure",
        [
            timeseries(
                "Least memory available",
                "Share of memory that new work can have, of the ten hosts with the least. Below the dashed line "
                "LatidoHostMemoryLow fires.",
                PERCENT,
                Prom('bottomk(10, host:latido_memory_available:ratio{host=~"$host"})', "{{host}}"),
                limit=AVAILABLE,
                maximum=1,
                width=8,
            ),
            timeseries(
                "Most swap in use",
                "Swap that holds something, of the ten hosts with the most.",
                BYTES,
                Prom(
                    'topk(10, max by (host) (latido_swap_total_bytes{host=~"$host"} - '
                    'latido_swap_free_bytes{host=~"$host"}))',
                    "{{host}}",
                ),
                width=8,
            ),
            timeseries(
                "Waiting for memory from disk",
                "Major page faults: accesses that waited for a disk. Where many go with little memory "
                "available, a host thrashes.",
                PER_SECOND,
                Prom(
                    'topk(10, sum by (host) (rate(latido_group_page_faults_total{host=~"$host",kind="major"}'
                    "[$__rate_interval])))",
                    "{{host}}",
                ),
                width=8,
            ),
        ],
    )


def _states() -> Row:
    return Row(
        "Process states",
        [
            timeseries(
                "Processes by state",
                "All processes of the chosen hosts. Sleeping is usual; what stays in disk sleep hangs on a disk.",
                COUNT,
                Prom('sum by (state) (latido_processes{host=~"$host"}) > 0', "{{state}}"),
                stacked=True,
                width=8,
                colors={"zombie": "purple", "disk_sleep": "red", "running": "green", "sleeping": "blue"},
            ),
            timeseries(
                "In disk sleep",
                "Processes that wait for a disk or network file system, of the ten hosts with the most.",
                COUNT,
                Prom('topk(10, max by (host) (latido_processes{host=~"$host",state="disk_sleep"}))', "{{host}}"),
                limit=DISK_SLEEP,
                width=8,
            ),
            timeseries(
                "Zombies",
                "Processes that ended and whose parent does not ask, by host and group, the ten largest.",
                COUNT,
                Prom(
                    'topk(10, max by (host, group) (latido_group_states{host=~"$host",state="zombie"}))',
                    "{{host}} {{group}}",
                ),
                limit=ZOMBIES,
                width=8,
            ),
        ],
    )


def _changes() -> Row:
    cpu = 'max by (host, group) (host_group:latido_group_cpu:ratio_rate5m{host=~"$host"})'
    cpu_before = 'max by (host, group) (host_group:latido_group_cpu:ratio_rate5m{host=~"$host"} offset 1h)'
    memory = 'max by (host, group) (latido_group_resident_memory_bytes{host=~"$host"})'
    before = 'max by (host, group) (latido_group_resident_memory_bytes{host=~"$host"} offset 1h)'
    names = {"host": Column(TEXT, link=TO_HOST), "group": Column(TEXT)}
    return Row(
        "What changed in the last hour",
        [
            table_panel(
                "More CPU than an hour ago",
                "Groups that use more of their host's CPUs than an hour before the end of the range; one that "
                "was not "
                "there counts from 0.",
                {**names, "More": Column(PERCENT, decimals=1)},
                Prom(f"topk(10, ({cpu} - {cpu_before}) or {cpu})", "More"),
                by="host, group",
                sort="More",
                width=8,
            ),
            table_panel(
                "More memory than an hour ago",
                "Groups whose resident memory grew since an hour before the end of the range; one that was not there "
                "counts from 0.",
                {**names, "More": Column(BYTES, decimals=1)},
                Prom(f"topk(10, ({memory} - {before}) or {memory})", "More"),
                by="host, group",
                sort="More",
                width=8,
            ),
            table_panel(
                "Most processes ended",
                "Processes that ended within the last hour, by group: a service that dies and is started again "
                "is here.",
                {**names, "Ended": Column(COUNT, decimals=0)},
                Prom(
                    'topk(10, sum by (host, group) (increase(latido_group_exits_total{host=~"$host"}[1h])))',
                    "Ended",
                ),
                by="host, group",
                sort="Ended",
                width=8,
            ),
            table_panel(
                "Who used the CPUs of all hosts",
                "From the database, exact to the nanosecond and with processes that lived for a moment: commands by "
                "CPU time on every host, over the last five minutes of the range.",
                {
                    "Command": Column(TEXT),
                    "CPU time": Column(SECONDS, decimals=1),
                    "Of one CPU": Column(PERCENT, decimals=1),
                    "Largest": Column(BYTES),
                },
                Sql(sql.FLEET_CPU),
            ),
        ],
    )
