"""The two sides of `fanout` with a few clients: every message reaches each of them, and slow ones are told."""

from __future__ import annotations

from typing import cast

import pytest

from loadtest.benchmarks import fanout


@pytest.mark.parametrize("contender", ["ours", "limit", "broadcast"])
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_every_client_gets_every_message(contender: str, *, compressed: bool) -> None:
    """The clients inflate and compare; a message that differs between two of them ends the benchmark."""
    name = "ours" if contender == "limit" else contender
    with fanout.sides(name, compressed=compressed) as (server, clients, ports):
        fanout.connect(clients, name, ports, 5, compressed=compressed)
        answer = fanout.send(server, clients, contender, 3, fanout.SIZES["20k"])
        assert 15 == len(cast(list[float], answer["latencies"]))
        assert min(cast(list[float], answer["latencies"])) >= 0
        assert cast(float, answer["cpu"]) > 0


def test_slow_clients_are_told_and_the_others_get_all() -> None:
    found = fanout.slow_clients(5, 30, runs=1, each=2)
    (told,) = cast(list[dict[str, int]], found["told"])
    assert (4, 4) == (told["late"], told["told"])


def test_an_idle_client_is_measured_among_as_many_as_came() -> None:
    assert 0 < fanout.idle_kib("ours", 100) < 100
