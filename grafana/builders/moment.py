"""*What happened at…*: the process table of any moment, who used what before it, one process from birth to exit.

All from the database; every panel answers on the time picker: the moment is the end of its range.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.builders import board, sql
from grafana.builders.fleet import AVAILABLE, BUSY, DISK_SLEEP, ZOMBIES
from grafana.builders.host import TABLE_COLUMNS
from grafana.builders.panels import (
    BAD,
    BYTES,
    COUNT,
    GOOD,
    MYSQL,
    PERCENT,
    SECONDS,
    TEXT,
    TIME,
    WATCH,
    Column,
    Row,
    Sql,
    stat_panel,
    table_panel,
    timeseries,
)

THIS = "/d/latido-moment?var-host=${host}&var-process=${__value.raw:percentencode}&${__url_time_range}"


def build() -> Dashboard:
    """Return the dashboard."""
    process = (
        dashboard.QueryVariable("process")
        .label("Process")
        .description("One process, by pid and start: the 500 that used most CPU time in the range.")
        .query(sql.PROCESSES)
        .datasource(MYSQL)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    )
    return board.board(
        "latido-moment",
        "Set the end of the range to the moment: 03:12. The table is as the exporter saw it then; the sums are "
        "exact, and "
        "processes that lived between two samples are in them (kmod and bpf).",
        [_moment(), _range(), _containers(), _one()],
        variables=[
            board.prometheus_source(),
            board.mysql_source(),
            board.stored_hosts(),
            board.streams(),
            board.table_of_moment(),
            process,
        ],
        annotations=[board.alerts(',host=~"$host|"'), board.restarts("$host")],
        since="now-15m",
        refresh="",
    )


def _moment() -> Row:
    columns = {name: column for name, column in TABLE_COLUMNS.items() if name != "Process"}
    return Row(
        "The moment: the end of the range",
        [
            stat_panel(
                "Table is older by",
                "How long before the end of the range the newest sample was taken. More than the push "
                "interval: the host was "
                "silent then.",
                SECONDS,
                Sql(sql.AGE),
                steps=((None, GOOD), (30, WATCH), (300, BAD)),
                width=4,
            ),
            stat_panel(
                "CPU busy over the range",
                "Share of all CPUs that was not idle, exactly, over the whole range.",
                PERCENT,
                Sql(sql.BUSY),
                limit=BUSY,
                width=4,
            ),
            stat_panel(
                "Memory available",
                "Share of memory that new work could have at the moment.",
                PERCENT,
                Sql(sql.MEMORY),
                limit=AVAILABLE,
                width=4,
            ),
            table_panel(
                "Processes at the moment",
                "All processes by what they did.",
                {"Zombies": Column(COUNT, ZOMBIES), "In disk sleep": Column(COUNT, DISK_SLEEP)},
                Sql(sql.COUNTS),
                width=12,
                height=4,
            ),
            table_panel(
                "Process table of the moment",
                "Every process as the exporter saw it in its newest sample: the last keyframe and what followed.",
                {**columns, "Process": Column(TEXT, link=THIS, width=150)},
                Sql(sql.TABLE),
                height=12,
                sort="CPU, last minute",
            ),
        ],
    )


def _range() -> Row:
    amounts = {
        "Command": Column(TEXT),
        "CPU time": Column(SECONDS, decimals=2),
        "Of one CPU": Column(PERCENT, bar=True, decimals=1),
        "Largest": Column(BYTES),
    }
    return Row(
        "The range: who used what",
        [
            timeseries(
                "CPU by command",
                "CPU time of the ten commands that used most over the range, and of all others. 100% is one CPU.",
                PERCENT,
                Sql(sql.CPU_OVER_TIME, "time_series"),
                stacked=True,
                colors={"all others": "text"},
            ),
            timeseries(
                "Memory by command",
                "Resident memory of the ten largest commands: of processes that did something and of the 50 "
                "largest, which "
                "every sample carries.",
                BYTES,
                Sql(sql.MEMORY_OVER_TIME, "time_series"),
                stacked=True,
                colors={"all others": "text"},
            ),
            table_panel(
                "Top by CPU",
                "Commands by CPU time over the range, an exact sum: what lived for a moment is in it.",
                amounts,
                Sql(sql.TOP_CPU),
                width=12,
            ),
            table_panel(
                "Top by memory",
                "Processes by the most resident memory that they had in the range.",
                {
                    "Command": Column(TEXT),
                    "Largest": Column(BYTES),
                    "PID": Column("none"),
                    "Process": Column(TEXT, link=THIS),
                },
                Sql(sql.TOP_MEMORY),
                width=12,
            ),
            table_panel(
                "Top by I/O",
                "Commands by what they read from and wrote to block devices over the range. Empty where the "
                "exporter may not "
                "know.",
                {"Command": Column(TEXT), "Read": Column(BYTES), "Written": Column(BYTES)},
                Sql(sql.TOP_IO),
                width=12,
            ),
            table_panel(
                "What ended",
                "Processes that ended in the range, by command: how many, how long they lived, what they used in all.",
                {
                    "Command": Column(TEXT),
                    "CPU time": Column(SECONDS, decimals=2),
                    "Lived": Column(SECONDS, decimals=1),
                },
                Sql(sql.SHORT_LIVED),
                width=12,
            ),
        ],
    )


def _containers() -> Row:
    return Row(
        "Containers and units",
        [
            table_panel(
                "Top containers and units",
                "By the process's cgroup: the innermost container (12 digits), else the systemd unit, by CPU time.",
                {
                    "Container or unit": Column(TEXT),
                    "CPU time": Column(SECONDS, decimals=2),
                    "Largest": Column(BYTES),
                    "Commands": Column(TEXT),
                },
                Sql(sql.CONTAINERS),
                width=14,
            ),
            table_panel(
                "What these answers rest on",
                "The host's streams in the range, one for each life of its spool, and whether samples are missing.",
                {
                    "Missing": Column(COUNT, steps=((None, GOOD), (1, BAD))),
                    "First": Column(TIME),
                    "Last": Column(TIME),
                    "Stream": Column(TEXT),
                    "Kernel": Column(TEXT),
                    "Boot": Column(TEXT),
                },
                Sql(sql.STORED),
                width=10,
            ),
        ],
    )


def _one() -> Row:
    return Row(
        "One process from birth to exit",
        [
            table_panel(
                "Its life",
                "The process that is chosen above, a line for each name that it had: an exec, another user or cgroup.",
                {
                    "Command": Column(TEXT),
                    "PID": Column("none"),
                    "Parent": Column("none"),
                    "User": Column("none"),
                    "Born": Column(TIME),
                    "First seen": Column(TIME),
                    "Last seen": Column(TIME),
                    "End": Column(TEXT),
                    "CPU time": Column(SECONDS, decimals=2),
                    "Largest": Column(BYTES),
                    "Container or unit": Column(TEXT),
                },
                Sql(sql.LIFE),
                height=5,
            ),
            timeseries(
                "Its CPU",
                "CPU time in each step. 100% is one CPU; a step without a point is one in which it did nothing.",
                PERCENT,
                Sql(sql.PROCESS_CPU, "time_series"),
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Its memory",
                "Resident memory, the most in each step.",
                BYTES,
                Sql(sql.PROCESS_MEMORY, "time_series"),
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Its disk reads and writes",
                "Bytes read from and written to block devices since its start: the slope is the rate.",
                BYTES,
                Sql(sql.PROCESS_IO, "time_series"),
                width=8,
                legend_below=True,
            ),
        ],
    )
