"""*raw vs orm*: the two ingest APIs side by side, for load tests and for `--push.mode=split`."""

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
    WATCH,
    AnyPanel,
    Limit,
    Prom,
    Row,
    Sql,
    bars,
    between,
    stat_panel,
    timeseries,
)

RATE = "[$__rate_interval]"
JOBS = 'job=~"latido-ingest-(raw|orm)"'
STAGE = Limit("ingest_stage_p99_seconds", 1)
ERRORS = Limit("ingest_error_ratio", 0.01)
ALONE = 4
"""In place of a share, which is 1 at most: only one API answers pushes."""
COLORS = {"latido-ingest-raw": "blue", "latido-ingest-orm": "orange"}


def build() -> Dashboard:
    """Return the dashboard."""
    return board.board(
        "latido-compare",
        "What the two implementations of one contract cost under the same load: a load test against each, or "
        "--push.mode=split. Under `mirror` one of them stores and the other finds duplicates, and this page "
        "compares the winner "
        "with the duplicate path; its first panel says which it is.",
        [_fair(), _rate(), _stages(), _cost()],
        variables=[board.prometheus_source(), board.mysql_source()],
        annotations=[board.alerts(',job=~"latido-ingest-.+|"'), board.restarts(".+")],
        since="now-30m",
        refresh="10s",
    )


def _fair() -> Row:
    duplicates = f"sum(rate(latido_ingest_duplicates_total{{{JOBS}}}{RATE}))"
    stored = f"sum(rate(latido_ingest_samples_total{{{JOBS}}}{RATE}))"
    both = f"count(sum by (job) (rate(latido_ingest_requests_total{{{JOBS}}}{RATE})) > 0) == 2"
    return Row(
        "Is this a fair comparison?",
        [
            stat_panel(
                "What is compared",
                "By the share of samples that were there already. With `mirror` it is about a half: whichever "
                "API is first stores a "
                "sample, the other only finds it, so their times are not of the same work. With `split` or a "
                "load test with "
                "streams of its own it is near 0, and both do the same. Where only one of them is pushed to, there is "
                "nothing to compare.",
                PERCENT,
                Prom(
                    f"({duplicates} / ({duplicates} + {stored} > 0) and on () ({both})) or on () vector({ALONE})",
                    "duplicates",
                ),
                mappings=[
                    between(None, 0.1, "fair: both store what they are sent", GOOD),
                    between(0.1, ALONE / 2, "mirror: the winner against the duplicate path", WATCH),
                    between(ALONE / 2, None, "only one API is pushed to", BAD),
                ],
                width=12,
            ),
            stat_panel(
                "Pushes that failed",
                "Share of answers that were 429 or 5xx, over 5 minutes.",
                PERCENT,
                Prom(f"job:latido_ingest_errors:ratio_rate5m{{{JOBS}}}", "{{job}}"),
                limit=ERRORS,
                name=True,
                width=6,
            ),
            stat_panel(
                "CPU time of a row, 5 minutes",
                "CPU time of the API for each row that it stored, over the newest minutes: the figure to compare by.",
                SECONDS,
                Prom(
                    f"sum by (job) (rate(process_cpu_seconds_total{{{JOBS}}}[5m]))"
                    f" / (sum by (job) (rate(latido_ingest_rows_total{{{JOBS}}}[5m])) > 0)",
                    "{{job}}",
                ),
                name=True,
                width=6,
            ),
        ],
    )


def _rate() -> Row:
    return Row(
        "Rate and errors",
        [
            timeseries(
                "Pushes",
                "Requests answered, good or bad.",
                PER_SECOND,
                Prom(f"sum by (job) (rate(latido_ingest_requests_total{{{JOBS}}}{RATE}))", "{{job}}"),
                width=6,
                legend_below=True,
                colors=COLORS,
            ),
            timeseries(
                "Rows",
                "Rows stored in all tables.",
                PER_SECOND,
                Prom(f"sum by (job) (rate(latido_ingest_rows_total{{{JOBS}}}{RATE}))", "{{job}}"),
                width=6,
                legend_below=True,
                colors=COLORS,
            ),
            timeseries(
                "Answers that are not 201",
                "By status; both at 0 is as it should be.",
                PER_SECOND,
                Prom(
                    f"sum by (job) (rate(latido_ingest_requests_total{{{JOBS}}}{RATE}))"
                    f' - sum by (job) (rate(latido_ingest_requests_total{{{JOBS},status="201"}}{RATE}))',
                    "{{job}}",
                ),
                width=6,
                legend_below=True,
                colors=COLORS,
            ),
            timeseries(
                "Who stored the samples",
                "From the database: samples of `procesos` by the API that stored them.",
                PER_SECOND,
                Sql(sql.STORED_BY, "time_series"),
                width=6,
                legend_below=True,
                stacked=True,
                colors={"won by raw": "blue", "won by orm": "orange"},
            ),
        ],
    )


def _stages() -> Row:
    def stage(name: str, meaning: str) -> AnyPanel:
        bucket = f'rate(latido_ingest_stage_seconds_bucket{{{JOBS},stage="{name}"}}{RATE})'
        return timeseries(
            f"{name}: p50, p95, p99",
            meaning,
            SECONDS,
            *(
                Prom(f"histogram_quantile({share}, sum by (job, le) ({bucket}))", f"{{{{job}}}} {shown}")
                for share, shown in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
            ),
            limit=STAGE,
            width=6,
            height=9,
            legend_below=True,
        )

    return Row(
        "Stage by stage",
        [
            stage("decode", "Inflating, parsing and checking a push, by request."),
            stage("queue", "A push's wait for a database connection, by request."),
            stage("insert", "Sending rows to the database, by transaction; in raw several pushes may share one."),
            stage("commit", "The commit, by transaction: mostly the database's disk."),
            bars(
                "Mean time of a stage",
                "Sum of times over number of times: where each API spends a push.",
                SECONDS,
                Prom(
                    f"sum by (job, stage) (rate(latido_ingest_stage_seconds_sum{{{JOBS}}}{RATE}))"
                    f" / (sum by (job, stage) (rate(latido_ingest_stage_seconds_count{{{JOBS}}}{RATE})) > 0)",
                    "{{job}} {{stage}}",
                ),
                width=24,
                height=7,
            ),
        ],
    )


def _cost() -> Row:
    return Row(
        "Cost",
        [
            timeseries(
                "CPU time of a row",
                "CPU time of the API for each row that it stored.",
                SECONDS,
                Prom(
                    f"sum by (job) (rate(process_cpu_seconds_total{{{JOBS}}}{RATE}))"
                    f" / (sum by (job) (rate(latido_ingest_rows_total{{{JOBS}}}{RATE})) > 0)",
                    "{{job}}",
                ),
                width=6,
                legend_below=True,
                colors=COLORS,
            ),
            timeseries(
                "CPU",
                "CPU time of each API: 100% is one CPU.",
                PERCENT,
                Prom(f"sum by (job) (rate(process_cpu_seconds_total{{{JOBS}}}{RATE}))", "{{job}}"),
                width=6,
                legend_below=True,
                colors=COLORS,
            ),
            timeseries(
                "Resident memory",
                "Memory of each API.",
                BYTES,
                Prom(f"sum by (job) (process_resident_memory_bytes{{{JOBS}}})", "{{job}}"),
                width=6,
                legend_below=True,
                colors=COLORS,
            ),
            timeseries(
                "Connections in use",
                "Database connections that each API holds while it stores.",
                COUNT,
                Prom(f"sum by (job) (latido_ingest_connections_in_use{{{JOBS}}})", "{{job}}"),
                width=6,
                legend_below=True,
                colors=COLORS,
            ),
        ],
    )
