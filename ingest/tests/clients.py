"""What a sender does: one request, one answer, with nothing between the test and the wire."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import pymysql
from pymysql.cursors import DictCursor

from ingest.contract.vectors import Json
from latido.settings import Dsn

TABLES = ("hosts", "ram", "cpu", "procesos", "process_samples", "processes")
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Json]:
        value = json.loads(self.body)
        assert isinstance(value, dict), value
        return value


def send(port: int, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body=body, headers=dict(headers))
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def push(port: int, feed: str, body: Json, headers: Mapping[str, str] = JSON) -> Answer:
    return send(port, "POST", f"/api/{feed}", headers, json.dumps(body).encode())


def now_ms() -> int:
    return int(time.time() * 1000)


class Database:
    """A test's view into the database that programs write to, over one connection."""

    def __init__(self, dsn: Dsn) -> None:
        self._connection = pymysql.connect(
            host=dsn.host,
            port=dsn.port,
            user=dsn.user,
            password=dsn.password,
            database=dsn.database,
            autocommit=True,
            init_command="SET time_zone = '+00:00'",
        )

    def close(self) -> None:
        self._connection.close()

    def run(self, statement: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)

    def rows(self, query: str) -> list[dict[str, object]]:
        with self._connection.cursor(DictCursor) as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def number(self, query: str) -> int:
        (row,) = self.rows(query)
        (value,) = row.values()
        return int(str(value))

    def clear(self) -> None:
        for table in TABLES:
            self.run(f"DELETE FROM {table}")  # noqa: S608 - names above

    def counts(self) -> dict[str, int]:
        """Return how many rows each table holds."""
        selects = ", ".join(f"(SELECT COUNT(*) FROM {table}) AS {table}" for table in TABLES)  # noqa: S608 - names above
        (row,) = self.rows(f"SELECT {selects}")
        return {table: int(str(count)) for table, count in row.items()}
