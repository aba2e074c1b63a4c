"""The naive reference of `ingest`: an aiohttp handler that does one INSERT and one commit a request, over a pool.

It decodes as `latido ingest raw` does and stores `cpu` samples in the real table, so what differs is the way into the
database alone. It is a reference, not an API: no tokens, no limits, no answers but 201.
"""

from __future__ import annotations

import argparse
import asyncio
import os

import aiomysql
from aiohttp import web

from ingest.contract.wire import CpuPush, Feed
from ingest.raw import statements
from ingest.raw.decode import decode
from latido import settings

Host = tuple[str, str]


def main() -> None:
    """Serve on --port, over the database of LATIDO_DB_DSN, until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    given = parser.parse_args()
    asyncio.run(serve(settings.dsn(os.environ["LATIDO_DB_DSN"]), given.port, given.connections))


async def serve(dsn: settings.Dsn, port: int, connections: int) -> None:
    """Serve until the process is ended."""
    pool = await aiomysql.create_pool(
        minsize=connections,
        maxsize=connections,
        host=dsn.host,
        port=dsn.port,
        user=dsn.user,
        password=dsn.password,
        db=dsn.database,
        init_command="SET time_zone = '+00:00'",
    )
    hosts: dict[Host, int] = {}

    async def push(request: web.Request) -> web.Response:
        cpu = decode(Feed.CPU, await request.read()).push
        if not isinstance(cpu, CpuPush):
            raise TypeError(f"expected a cpu push, got {type(cpu).__name__}")
        async with pool.acquire() as connection, connection.cursor() as cursor:
            host = (cpu.host, cpu.stream)
            if host not in hosts:
                await cursor.execute(statements.hosts([(*host, cpu.boot_id, cpu.kernel)]))
                await connection.commit()
                await cursor.execute(statements.host_query([host]))
                hosts[host] = int((await cursor.fetchone())[0])
                await connection.commit()
            accepted = 0
            for sample in cpu.samples:
                for statement in statements.feed_rows(Feed.CPU, [statements.Placed(hosts[host], 0, sample)]):
                    accepted += await cursor.execute(statement)
                await connection.commit()
        return web.json_response({"accepted": accepted, "duplicates": len(cpu.samples) - accepted}, status=201)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(text="# the reference counts nothing\n")

    application = web.Application()
    application.router.add_post("/api/cpu", push)
    application.router.add_get("/metrics", metrics)
    runner = web.AppRunner(application, access_log=None, handle_signals=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
