"""*Pipeline*: from the exporter to the reader, in the order in which samples go."""

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
    TIME,
    WATCH,
    Column,
    Limit,
    Prom,
    Row,
    Sql,
    stat_panel,
    table_panel,
    timeseries,
    words,
)

RATE = "[$__rate_interval]"
HOST = 'host=~"$host"'
AGE = Limit("sample_age_p99_seconds", 5)
SPOOL = Limit("spool_oldest_sample_age_seconds", 60)
STAGE = Limit("ingest_stage_p99_seconds", 1)
SCRAPE = Limit("exporter_scrape_seconds", 0.2)


def build() -> Dashboard:
    """Return the dashboard."""
    return board.board(
        "latido-pipeline",
        "Is every sample on its way? From left to right and from top to bottom as samples go: the first that "
        "is red is the "
        "place to look.",
        [_overview(), _exporters(), _push(), _apis(), _database(), _bridge()],
        variables=[board.prometheus_source(), board.mysql_source(), board.hosts(several=True)],
        annotations=[board.alerts(""), board.restarts("$host")],
        since="now-1h",
        refresh="30s",
    )


def _overview() -> Row:
    return Row(
        "From left to right: the first that is red is the place to look",
        [
            stat_panel(
                "Exporters down",
                "Exporters whose last scrape failed.",
                COUNT,
                Prom(f'sum(1 - up{{job="latido-exporter",{HOST}}})', "exporters"),
                steps=((None, GOOD), (1, BAD)),
            ),
            stat_panel(
                "Oldest unsent sample",
                "Age of the oldest sample in any spool.",
                SECONDS,
                Prom(f"max(latido_spool_oldest_sample_age_seconds{{{HOST}}})", "age"),
                limit=SPOOL,
            ),
            stat_panel(
                "APIs down",
                "Ingest APIs whose last scrape failed.",
                COUNT,
                Prom('sum(1 - up{job=~"latido-ingest-.+"})', "APIs"),
                steps=((None, GOOD), (1, BAD)),
            ),
            stat_panel(
                "Database",
                "Whether every bridge reached the database at its last poll.",
                COUNT,
                Prom("min(latido_bridge_database_up)", "database"),
                mappings=[words({"0": ("away", BAD), "1": ("there", GOOD)})],
            ),
            stat_panel(
                "Bridges down",
                "Bridges whose last scrape failed.",
                COUNT,
                Prom('sum(1 - up{job="latido-bridge"})', "bridges"),
                steps=((None, GOOD), (1, BAD)),
            ),
            stat_panel(
                "Sample age, p99",
                "From the kernel read to the bridge: 99 of 100 samples were younger than this, over 5 minutes.",
                SECONDS,
                Prom("max(feed:latido_bridge_sample_age_seconds:p99_5m)", "age"),
                limit=AGE,
            ),
        ],
    )


def _exporters() -> Row:
    return Row(
        "1. Exporters",
        [
            timeseries(
                "Cost of a scrape",
                "What reading the kernel takes, by collector, of the slowest host each. The dashed line is the "
                "threshold of "
                "LatidoExporterExpensive.",
                SECONDS,
                Prom(f"max by (collector) (latido_collector_duration_seconds{{{HOST}}})", "{{collector}}"),
                limit=SCRAPE,
                width=8,
                legend_below=True,
            ),
            timeseries(
                "CPU of Latido's programs by host",
                "CPU time of the group `latido`, the ten hosts with the most: on most hosts the exporter "
                "alone. 100% is one CPU.",
                PERCENT,
                Prom(
                    f'topk(10, sum by (host) (rate(latido_group_cpu_seconds_total{{{HOST},group="latido"}}{RATE})))',
                    "{{host}}",
                ),
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Series of a host",
                "Samples that a scrape brings, the ten hosts with the most: the cardinality budget of "
                "docs/dashboards.md.",
                COUNT,
                Prom(f'topk(10, max by (host) (scrape_samples_scraped{{job="latido-exporter",{HOST}}}))', "{{host}}"),
                width=8,
                legend_below=True,
            ),
        ],
    )


def _push() -> Row:
    return Row(
        "2. Spools and pushes",
        [
            timeseries(
                "Samples waiting",
                "Samples in the spools that an API has not acknowledged, over all chosen hosts.",
                COUNT,
                Prom(f"sum by (api) (latido_spool_pending_samples{{{HOST}}})", "{{api}}"),
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Age of the oldest sample in a spool",
                "The ten hosts that lag most. At the dashed line LatidoSpoolGrowing fires.",
                SECONDS,
                Prom(f"topk(10, max by (host) (latido_spool_oldest_sample_age_seconds{{{HOST}}}))", "{{host}}"),
                limit=SPOOL,
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Spool size",
                "Samples in the spools as compressed there, the ten largest.",
                BYTES,
                Prom(f"topk(10, max by (host) (latido_spool_bytes{{{HOST}}}))", "{{host}}"),
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Answers to pushes",
                "What the APIs answered: 201 is stored, 0 is no answer at all, 503 a database that is away, "
                "429 overload, "
                "401, 403 and 404 a wrong token or address.",
                PER_SECOND,
                Prom(f"sum by (api, status) (rate(latido_push_requests_total{{{HOST}}}{RATE}))", "{{api}} {{status}}"),
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Taken and acknowledged",
                "Samples read from the kernel, and samples that each API acknowledged. With `mirror` each "
                "API's line is as high "
                "as `taken`; above it, a backlog drains.",
                PER_SECOND,
                Prom(f"sum(rate(latido_push_samples_taken_total{{{HOST}}}{RATE}))", "taken"),
                Prom(f"sum by (api) (rate(latido_push_samples_total{{{HOST}}}{RATE}))", "{{api}}"),
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Lost, refused, not taken",
                "What must stay at 0: samples dropped before any API had them, refused for what they hold, not "
                "read or kept; "
                "and APIs that refuse an exporter altogether.",
                COUNT,
                Prom(f"sum(increase(latido_spool_lost_samples_total{{{HOST}}}{RATE}))", "lost"),
                Prom(f"sum(increase(latido_spool_dropped_samples_total{{{HOST}}}{RATE}))", "dropped"),
                Prom(f"sum(increase(latido_push_dead_letters_total{{{HOST}}}{RATE}))", "refused"),
                Prom(f"sum(increase(latido_push_samples_failed_total{{{HOST}}}{RATE}))", "not taken"),
                Prom(f"sum(latido_push_paused{{{HOST}}})", "paused pushes"),
                Prom(f"sum(latido_spool_dead_letters{{{HOST}}})", "kept aside"),
                width=8,
                legend_below=True,
            ),
        ],
    )


def _apis() -> Row:
    return Row(
        "3. Ingest APIs",
        [
            timeseries(
                "Answers",
                "Requests that each API answered, by status.",
                PER_SECOND,
                Prom(f"sum by (job, status) (rate(latido_ingest_requests_total{RATE}))", "{{job}} {{status}}"),
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Stages, p99",
                "99 of 100 took less: `decode` by request, `queue` is the wait for a connection, `insert` and "
                "`commit` by "
                "transaction. At the dashed line LatidoIngestSlow fires.",
                SECONDS,
                Prom(
                    "histogram_quantile(0.99, sum by (job, stage, le)"
                    f" (rate(latido_ingest_stage_seconds_bucket{RATE})))",
                    "{{job}} {{stage}}",
                ),
                limit=STAGE,
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Rows stored",
                "Rows of committed transactions, by table, both APIs together.",
                PER_SECOND,
                Prom(f"sum by (table) (rate(latido_ingest_rows_total{RATE}))", "{{table}}"),
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Stored and duplicate samples",
                "With `mirror` every sample comes to both APIs and is stored once: whoever is first stores it, "
                "the other counts a "
                "duplicate.",
                PER_SECOND,
                Prom(f"sum by (job) (rate(latido_ingest_samples_total{RATE}))", "{{job}} stored"),
                Prom(f"sum by (job) (rate(latido_ingest_duplicates_total{RATE}))", "{{job}} duplicates"),
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Pushes in flight and connections",
                "Pushes that are being read, decoded or stored, and database connections in use, of those that "
                "there can be.",
                COUNT,
                Prom("sum by (job) (latido_ingest_requests_in_flight)", "{{job}} in flight"),
                Prom("sum by (job) (latido_ingest_connections_in_use)", "{{job}} connections"),
                Prom("sum by (job) (latido_ingest_connections_max)", "{{job}} connections, most"),
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Fields not known",
                "Fields that an API ignored since it is older than the exporters that send them: upgrade it.",
                PER_SECOND,
                Prom(f"sum by (job, feed) (rate(latido_ingest_unknown_fields_total{RATE}))", "{{job}} {{feed}}"),
                width=8,
                legend_below=True,
            ),
        ],
    )


def _database() -> Row:
    return Row(
        "4. Database",
        [
            timeseries(
                "Poll by the bridge",
                "What reading new samples takes: the database's speed for readers.",
                SECONDS,
                Prom(
                    f"histogram_quantile(0.5, sum by (le) (rate(latido_bridge_poll_seconds_bucket{RATE})))",
                    "p50",
                ),
                Prom(
                    f"histogram_quantile(0.99, sum by (le) (rate(latido_bridge_poll_seconds_bucket{RATE})))",
                    "p99",
                ),
                width=8,
                legend_below=True,
            ),
            table_panel(
                "Newest sample of each host",
                "From the database: hosts that stored a sample in the last day, the one that has been silent "
                "longest first.",
                {
                    "Host": Column(TEXT, link="/d/latido-moment?var-host=${__value.raw}&${__url_time_range}"),
                    "Newest sample": Column(TIME),
                    "Age": Column(SECONDS, steps=((None, GOOD), (60, WATCH), (600, BAD)), decimals=0),
                },
                Sql(sql.NEWEST),
                width=8,
                height=8,
            ),
            table_panel(
                "Tables",
                "Rows, as the server estimates them, bytes, and until which day there are partitions: without "
                "tomorrow's, "
                "samples are refused at midnight UTC.",
                {
                    "Table": Column(TEXT),
                    "Data": Column(BYTES),
                    "Indexes": Column(BYTES),
                    "Last day made": Column(TEXT),
                },
                Sql(sql.SIZES),
                width=8,
                height=8,
            ),
            timeseries(
                "Age of a sample when it was stored",
                "From the kernel read to the database, by host, as both clocks say. Below 0, a host's clock is "
                "ahead; a peak is a "
                "backlog that drained.",
                SECONDS,
                Sql(sql.SAMPLE_AGE, "time_series"),
                width=12,
            ),
            timeseries(
                "Who stored the samples",
                "Samples of `procesos` by the API that stored them.",
                PER_SECOND,
                Sql(sql.STORED_BY, "time_series"),
                stacked=True,
                width=12,
            ),
        ],
    )


def _bridge() -> Row:
    return Row(
        "5. Bridges and their clients",
        [
            timeseries(
                "Age of samples",
                "From the kernel read to the bridge, by feed. At the dashed line LatidoSamplesStale fires.",
                SECONDS,
                *(
                    Prom(
                        f"histogram_quantile({share}, sum by (feed, le)"
                        f" (rate(latido_bridge_sample_age_seconds_bucket{RATE})))",
                        f"{{{{feed}}}} {name}",
                    )
                    for share, name in ((0.5, "p50"), (0.99, "p99"))
                ),
                limit=AGE,
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Clients",
                "WebSocket clients that are served now.",
                COUNT,
                Prom("sum by (instance) (latido_bridge_clients)", "{{instance}}"),
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Frames sent",
                "Frames written to clients, by type. `gap` tells a client what it missed.",
                PER_SECOND,
                Prom(f"sum by (type) (rate(latido_bridge_frames_total{RATE}))", "{{type}}"),
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Clients that left",
                "By reason. `slow` did not read, `keepalive` answered no ping; `client` left by itself.",
                COUNT,
                Prom(f"sum by (reason) (increase(latido_bridge_closed_total{RATE}))", "{{reason}}"),
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Clients turned away",
                "Handshakes refused: 400 the query, 401 the token, 403 the origin, 503 too many clients.",
                COUNT,
                Prom(f"sum by (status) (increase(latido_bridge_refused_total{RATE}))", "{{status}}"),
                width=8,
                legend_below=True,
            ),
            timeseries(
                "Samples read, late, left out",
                "Samples that bridges read; late ones came after newer ones; invalid rows were left out; gaps "
                "are what clients were "
                "told they missed; rebuilds are process tables read anew.",
                PER_SECOND,
                Prom(f'sum(rate(latido_bridge_samples_total{{late="false"}}{RATE}))', "in time"),
                Prom(f'sum(rate(latido_bridge_samples_total{{late="true"}}{RATE}))', "late"),
                Prom(f"sum(rate(latido_bridge_invalid_rows_total{RATE}))", "invalid rows"),
                Prom(f"sum(rate(latido_bridge_gaps_total{RATE}))", "gaps"),
                Prom(f"sum(rate(latido_bridge_table_rebuilds_total{RATE}))", "rebuilds"),
                width=8,
                legend_below=True,
            ),
        ],
    )
