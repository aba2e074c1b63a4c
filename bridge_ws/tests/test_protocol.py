"""Frames out, messages in, and the algebra of what a client asked for."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge_ws import describe, protocol
from bridge_ws.protocol import (
    EVERY_HOST,
    Authenticate,
    ErrorCode,
    Gap,
    Hello,
    HostSet,
    Key,
    ProtocolError,
    Subscribe,
    Unsubscribe,
    encode,
    encode_sample,
    everything,
    parse_message,
    parse_query,
)
from bridge_ws.tests.samples import ram
from ingest.contract.wire import Feed

HOSTS = st.sampled_from(["a", "b", "c", "d"])
CHANGES = st.lists(
    st.builds(
        lambda cls, feeds, hosts: cls(feeds=feeds, hosts=hosts),
        st.sampled_from([Subscribe, Unsubscribe]),
        st.lists(st.sampled_from(list(Feed)), max_size=2),
        st.lists(HOSTS, max_size=2),
    ),
    max_size=8,
)


def test_a_sample_frame_reads_as_documented() -> None:
    key = Key(Feed.RAM, "web-1", "6f1c0000-0000-4000-8000-000000000001")
    frame = encode_sample(key, ram(7, 1_795_000_000_000), "orm", late=True)
    assert (frame.type, frame.key, frame.seq) == ("sample", key, 7)
    assert frame.text.startswith(
        b'{"type":"sample","feed":"ram","host":"web-1","stream":"6f1c0000-0000-4000-8000-000000000001",'
        b'"api":"orm","late":true,"sample":{"seq":7,"sampled_at":1795000000000,"total_bytes":17179869184,'
    )


def test_hello_and_gap_read_as_documented() -> None:
    hello = Hello(version=1, server="latido 0.1.0", feeds=list(Feed), hosts=["web-1"], resume=None)
    assert encode(hello).text == (
        b'{"type":"hello","version":1,"server":"latido 0.1.0","feeds":["ram","cpu","procesos"],"hosts":["web-1"],'
        b'"resume":null}'
    )
    gap = Gap(feed=Feed.CPU, host="a", stream="s", missed=2, first_seq=3, last_seq=4)
    assert encode(gap).text == (
        b'{"type":"gap","feed":"cpu","host":"a","stream":"s","missed":2,"first_seq":3,"last_seq":4}'
    )


def test_messages_of_a_client() -> None:
    assert parse_message('{"type":"subscribe"}') == Subscribe()
    assert parse_message('{"type":"unsubscribe","feeds":["cpu"],"hosts":["a"],"later":1}') == Unsubscribe(
        feeds=[Feed.CPU], hosts=["a"]
    )
    secret = parse_message('{"type":"authenticate","token":"hush"}')
    assert secret == Authenticate(token="hush")
    assert "hush" not in repr(secret)


@given(
    st.one_of(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner) | st.dictionaries(st.sampled_from(["type", "feeds", "hosts", "token"]), inner)
            ),
        ).map(lambda value: msgspec.json.encode(value).decode()),
    )
)
@example("[" * 100_000)
@example('{"type":"subscribe","x":' + "[" * 30_000)
@example('"\\ud800"')
def test_only_the_documented_exception_escapes_the_parser(text: str) -> None:
    try:
        parse_message(text)
    except ProtocolError as error:
        assert error.code is ErrorCode.MALFORMED  # noqa: PT017 - it may also be parsed


@given(CHANGES)
def test_a_subscription_is_the_set_that_its_messages_describe(changes: list[Subscribe | Unsubscribe]) -> None:
    """Against a plain set of every (feed, host), with one host ("z") that no message names."""
    every = {(feed, host) for feed in Feed for host in "abcdz"}
    expected, subscription = set(every), everything()
    for change in changes:
        named = {
            (feed, host)
            for feed, host in every
            if feed in (change.feeds or Feed) and (not change.hosts or host in change.hosts)
        }
        expected = expected | named if isinstance(change, Subscribe) else expected - named
        subscription = subscription.changed(change)
    assert {(feed, host) for feed, host in every if subscription.wants(Key(feed, host, ""))} == expected


def test_a_token_bound_to_hosts_narrows_whatever_is_asked() -> None:
    subscription = everything(frozenset({"a"})).changed(Subscribe(hosts=["b"]))
    assert [subscription.wants(Key(Feed.RAM, host, "")) for host in ("a", "b")] == [True, False]


def test_a_query_names_feeds_and_hosts() -> None:
    assert parse_query("").subscription.hosts == dict.fromkeys(Feed, EVERY_HOST)
    assert parse_query("feeds=ram,cpu&hosts=a").subscription.hosts == {
        Feed.RAM: HostSet(frozenset("a")),
        Feed.CPU: HostSet(frozenset("a")),
        Feed.PROCESOS: HostSet(),
    }


@pytest.mark.parametrize("query", ["feeds=x", "hosts=%20", "token=x", "a=1&" * 9, "hosts=%ff"])
def test_a_query_that_means_nothing_is_refused(query: str) -> None:
    with pytest.raises(ProtocolError):
        parse_query(query)


def test_the_document_is_that_of_the_types() -> None:
    """`python -m bridge_ws.describe > bridge_ws/asyncapi.yaml` brings it up to date."""
    assert (Path(protocol.__file__).parent / "asyncapi.yaml").read_text(encoding="utf-8") == describe.text()


def test_every_reference_in_the_document_leads_somewhere() -> None:
    document = describe.document()
    found = 0

    def walk(node: object) -> None:
        nonlocal found
        if isinstance(node, dict):
            for name, value in node.items():
                if name == "$ref":
                    target: object = document
                    for part in cast(str, value).removeprefix("#/").split("/"):
                        target = cast(dict[str, object], target)[part]
                    found += 1
                else:
                    walk(value)
        elif isinstance(node, list | tuple):
            for item in node:
                walk(item)

    walk(document)
    assert found > 20
