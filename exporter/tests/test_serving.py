"""The exporter served over real sockets: passwords, certificates, changes on the fly, and clients that dawdle."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import bcrypt
import pytest

from dev.waiting import wait_until
from exporter.serving.config import RateLimit
from exporter.serving.connections import Bounds, Connections
from exporter.serving.gate import Refusals, TokenBucket
from exporter.serving.live import LiveConfig, unprotected
from exporter.serving.passwords import (
    WAITING_PER_ADDRESS,
    Passwords,
    TooManyChecksError,
    credentials,
)
from exporter.serving.server import serve
from exporter.serving.sockets import listen
from exporter.tests.certificates import Authority, Pair
from exporter.web import Format, make_app
from latido import logs
from latido.settings import Address

HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
OTHER_HASH = bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode()
BIG = b"# filler\n" * (1 << 20)
"""More than the kernel keeps for a client that does not read."""


@dataclass(frozen=True)
class Served:
    """A served application and how to ask it."""

    port: int
    folder: Path
    authority: Authority

    def write(self, text: str) -> None:
        """Write the configuration as editors do: a new file in the old one's place."""
        new = self.folder / "web.yml.new"
        new.write_text(text)
        new.rename(self.folder / "web.yml")

    def trust(self, pair: Pair | None = None) -> ssl.SSLContext:
        """Return a client's context that trusts the authority, with its own certificate if given."""
        context = ssl.create_default_context(cadata=self.authority.pem.decode())
        if pair is not None:
            context.load_cert_chain(*pair.write(self.folder, f"client-{os.urandom(4).hex()}"))
        return context

    async def get(
        self, path: str = "/metrics", *, auth: tuple[str, str] | None = None, context: ssl.SSLContext | None = None
    ) -> aiohttp.ClientResponse:
        """Ask once, over a connection of its own. The body has been read."""
        connector = aiohttp.TCPConnector(force_close=True)
        header = {"Authorization": aiohttp.encode_basic_auth(*auth)} if auth else {}
        url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}{path}"
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.get(url, headers=header, ssl=context or True) as response:
                await response.read()
            return response


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def server(tmp_path: Path, authority: Authority) -> Serve:
    @asynccontextmanager
    async def start(
        text: str | None = None,
        *,
        scrape: Callable[[Format], bytes] = lambda _: b"up 1\n",
        bounds: Bounds | None = None,
    ) -> AsyncIterator[Served]:
        authority.server().write(tmp_path, "server")
        (tmp_path / "ca.crt").write_bytes(authority.pem)
        (tmp_path / "web.yml").write_text(text or "")
        listeners = listen([Address("127.0.0.1", 0)])
        port = listeners[0].getsockname()[1]
        current = unprotected if text is None else LiveConfig(tmp_path / "web.yml").current
        app = make_app(scrape, lambda: None, version="1.2.3")
        async with serve(app, listeners, current, bounds=bounds):
            yield Served(port, tmp_path, authority)

    return start


TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
MTLS = TLS + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n"
USERS = f"basic_auth_users:\n  me: {HASH}\n"


# --- passwords ---


async def test_who_knows_the_password_is_served_and_nobody_else(server: Serve) -> None:
    async with server(USERS) as served:
        assert (await served.get(auth=("me", "secret"))).status == 200
        for auth in (None, ("me", "wrong"), ("you", "secret"), ("me", ""), ("", "secret")):
            refused = await served.get(auth=auth)
            assert refused.status == 401
            assert refused.headers["WWW-Authenticate"].startswith("Basic realm=")
        for path in ("/", "/-/healthy", "/-/ready", "/none"):
            assert (await served.get(path)).status == 401, path


async def test_headers_asked_for_are_on_every_answer_and_win(server: Serve) -> None:
    headers = "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    Content-Security-Policy: sandbox\n"
    async with server(headers + USERS) as served:
        for response in (await served.get("/", auth=("me", "secret")), await served.get("/")):
            assert response.headers["X-Frame-Options"] == "deny"
            assert response.headers.getall("Content-Security-Policy") == ["sandbox"]


async def test_rate_limit_answers_429(server: Serve) -> None:
    async with server("rate_limit:\n  interval: 1h\n  burst: 2\n") as served:
        assert [(await served.get()).status for _ in range(3)] == [200, 200, 429]


def test_token_bucket_refills_with_time_and_holds_no_more_than_its_burst() -> None:
    now = 100.0
    bucket = TokenBucket(RateLimit(interval=0.5, burst=2), lambda: now)
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    now += 0.5
    assert [bucket.take() for _ in range(2)] == [True, False]
    now += 3600
    assert [bucket.take() for _ in range(3)] == [True, True, False]


def test_refusals_are_logged_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("info", "console")
    now = 0.0
    refusals = Refusals(lambda: now)
    for _ in range(100):
        refusals.log("wrong user or password", "10.0.0.1")
    now = 60.0
    refusals.log("wrong user or password", "10.0.0.1")
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("=")[2] for line in lines] == ["0", "99"]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Basic bWU6c2VjcmV0", (b"me", b"secret")),
        ("basic bWU6c2VjcmV0", (b"me", b"secret")),
        ("Basic " + base64.b64encode(b"me:a:b").decode(), (b"me", b"a:b")),
        ("Basic " + base64.b64encode(b":").decode(), (b"", b"")),
        ("Basic " + base64.b64encode(b"me").decode(), None),
        ("Basic ~~~", None),
        ("Bearer bWU6c2VjcmV0", None),
        ("", None),
        (None, None),
    ],
)
def test_authorization_header(header: str | None, expected: tuple[bytes, bytes] | None) -> None:
    assert credentials(header) == expected


async def test_password_that_was_right_is_not_checked_again() -> None:
    """A hundred scrapers with the right password cost one check, even if they come at the same moment."""
    passwords = Passwords()
    users = {b"me": bcrypt.hashpw(b"secret", bcrypt.gensalt(12))}
    start = time.thread_time(), time.process_time()
    assert all(await asyncio.gather(*(passwords.right((b"me", b"secret"), users, "a") for _ in range(100))))
    first = time.process_time() - start[1]
    start_again = time.process_time()
    assert all(await asyncio.gather(*(passwords.right((b"me", b"secret"), users, "a") for _ in range(100))))
    assert time.process_time() - start_again < first / 4
    # Not for another hash, and not for another user who has the same one.
    assert not await passwords.right((b"me", b"secret"), {b"me": OTHER_HASH.encode()}, "a")
    assert not await passwords.right((b"you", b"secret"), users, "a")
    await passwords.stop()


async def test_unknown_user_costs_as_much_as_a_known_one() -> None:
    """CPU time of the checks, in turn; a user whose hash is cheaper than another's included."""
    passwords = Passwords()
    users = {b"cheap": bcrypt.hashpw(b"a", bcrypt.gensalt(7)), b"dear": bcrypt.hashpw(b"b", bcrypt.gensalt(10))}

    async def cost(user: bytes, attempt: int) -> float:
        start = time.process_time()
        assert not await passwords.right((user, b"wrong%d" % attempt), users, "a")
        return time.process_time() - start

    costs = {user: [await cost(user, attempt) for attempt in range(5)] for user in (b"cheap", b"dear", b"nobody")}
    await passwords.stop()
    medians = [sorted(values)[2] for values in costs.values()]
    assert max(medians) < 1.5 * min(medians), costs


async def test_few_checks_may_wait_and_none_of_them_stops_the_loop() -> None:
    passwords = Passwords()
    users = {b"me": bcrypt.hashpw(b"secret", bcrypt.gensalt(11))}
    tries = [
        asyncio.ensure_future(passwords.right((b"me", b"%d" % attempt), users, "10.0.0.1")) for attempt in range(20)
    ]
    await asyncio.sleep(0)
    refused = [item for item in tries if item.done()]
    assert len(refused) == 20 - WAITING_PER_ADDRESS
    assert all(isinstance(item.exception(), TooManyChecksError) for item in refused)
    # Another address still comes to its turn, while the loop goes on.
    ticks = 0
    waiting = asyncio.ensure_future(passwords.right((b"me", b"secret"), users, "10.0.0.2"))
    while not waiting.done():
        ticks += 1
        await asyncio.sleep(0.01)
    assert waiting.result()
    assert ticks > 10
    await passwords.stop()
    await asyncio.gather(*tries, return_exceptions=True)


async def test_wrong_passwords_leave_most_of_the_cpu_alone() -> None:
    """Whoever keeps trying gets a quarter of one CPU."""
    passwords = Passwords()
    users = {b"me": bcrypt.hashpw(b"secret", bcrypt.gensalt(9))}
    wall, cpu = time.monotonic(), time.process_time()
    for attempt in range(5):
        assert not await passwords.right((b"me", b"%d" % attempt), users, "a")
    share = (time.process_time() - cpu) / (time.monotonic() - wall)
    await passwords.stop()
    assert share < 0.45


async def test_only_the_72_bytes_that_bcrypt_sees_count() -> None:
    """As with the toolkit; bcrypt for Python refuses longer ones by itself."""
    passwords = Passwords()
    users = {b"me": bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4))}
    assert await passwords.right((b"me", b"x" * 100), users, "a")
    assert not await passwords.right((b"me", b"x" * 71), users, "a")
    assert not await passwords.right((b"me", b"x\0" + b"x" * 70), users, "a")
    await passwords.stop()


# --- TLS ---


async def test_tls_is_served_and_plain_http_is_not(server: Serve) -> None:
    async with server(TLS) as served:
        response = await served.get(context=served.trust())
        assert (response.status, await response.text()) == (200, "up 1\n")
        with pytest.raises(aiohttp.ClientError):
            await served.get()


async def test_client_certificates(server: Serve) -> None:
    sans = "  client_allowed_sans: [prometheus.example, 'spiffe://example/prometheus', 'fd00::1']\n"
    async with server(MTLS + sans) as served:
        for name in ("prometheus.example", "spiffe://example/prometheus", "fd00::1"):
            assert (await served.get(context=served.trust(served.authority.client("other", name)))).status == 200
        stranger = Authority("someone else's")
        for pair in (None, served.authority.client("grafana.example"), served.authority.client(), stranger.client("a")):
            with pytest.raises((aiohttp.ClientError, OSError)):
                await served.get(context=served.trust(pair))


async def test_optional_client_certificate_is_verified_when_given(server: Serve) -> None:
    text = MTLS.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven") + "  client_allowed_sans: [a]\n"
    async with server(text) as served:
        assert (await served.get(context=served.trust())).status == 200
        assert (await served.get(context=served.trust(served.authority.client("a")))).status == 200
        with pytest.raises((aiohttp.ClientError, OSError)):
            await served.get(context=served.trust(served.authority.client("b")))


async def test_old_tls_is_not_spoken(server: Serve) -> None:
    async with server(TLS + "  min_version: TLS13\n") as served:
        old = served.trust()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(aiohttp.ClientError):
            await served.get(context=old)
        assert (await served.get(context=served.trust())).status == 200


# --- changes on the fly ---


async def serial(served: Served, context: ssl.SSLContext) -> object:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context)
    certificate = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    await writer.wait_closed()
    del reader
    return certificate


async def test_new_certificate_is_used_and_no_connection_is_dropped(server: Serve) -> None:
    async with server(TLS) as served, aiohttp.ClientSession() as session:
        context = served.trust()
        url = f"https://127.0.0.1:{served.port}/metrics"
        async with session.get(url, ssl=context) as response:
            assert response.status == 200
        before = await serial(served, context)
        served.authority.server().write(served.folder, "server")
        assert await serial(served, context) != before
        async with session.get(url, ssl=context) as response:
            assert response.status == 200
        connector = session.connector
        assert isinstance(connector, aiohttp.TCPConnector)
        assert len(connector._conns) == 1, "the connection from before was used again"


async def test_certificate_without_its_key_waits_for_it(server: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """The two files change one after the other: in between the old pair serves, and that is said once."""
    async with server(TLS) as served:
        logs.setup("info", "console")
        context = served.trust()
        before = await serial(served, context)
        new = served.authority.server()
        (served.folder / "server.crt").write_bytes(new.certificate)
        for _ in range(3):
            assert await serial(served, context) == before
        (served.folder / "server.key").write_bytes(new.key)
        assert await serial(served, context) != before
    lines = capsys.readouterr().err
    assert lines.count("new web configuration refused") == 1
    assert lines.count("web configuration read again") == 1


async def test_users_change_with_the_next_request(server: Serve) -> None:
    async with server(USERS) as served:
        assert (await served.get(auth=("me", "secret"))).status == 200
        served.write(f"basic_auth_users:\n  me: {OTHER_HASH}\n  you: {HASH}\n")
        assert (await served.get(auth=("me", "secret"))).status == 401
        assert (await served.get(auth=("me", "other"))).status == 200
        assert (await served.get(auth=("you", "secret"))).status == 200


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "authentication is not taken away"),
        ("basic_auth_users: [", "not YAML"),
        (f"basic_auth_users:\n  me: {HASH[:-1]}\n", "expected a bcrypt hash"),
        (TLS + USERS, "TLS is not switched on or off"),
        (None, "cannot be read"),
    ],
)
async def test_unusable_change_opens_nothing_and_closes_nothing(
    server: Serve, capsys: pytest.CaptureFixture[str], text: str | None, reason: str
) -> None:
    async with server(USERS) as served:
        logs.setup("info", "console")
        if text is None:
            (served.folder / "web.yml").unlink()
        else:
            served.write(text)
        for _ in range(3):
            assert (await served.get()).status == 401
            assert (await served.get(auth=("me", "secret"))).status == 200
        served.write(f"basic_auth_users:\n  me: {OTHER_HASH}\n")
        assert (await served.get(auth=("me", "other"))).status == 200
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "stays in force" in line and reason in line]) == 1


# --- clients that dawdle ---


async def connect(port: int, *, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    return client


async def is_closed(client: socket.socket) -> bool:
    """Whether the server has ended the connection, seen without reading what it sent."""
    state = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return int(struct.unpack("B", state)[0]) != 1  # TCP_ESTABLISHED


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_client_that_reads_a_byte_a_second_delays_nobody_and_is_cut(server: Serve, tls: bool) -> None:  # noqa: FBT001 - a parameter of the test
    bounds = Bounds(answer=1.5)
    text = TLS if tls else None
    async with server(text, scrape=lambda _: BIG, bounds=bounds) as served:
        context = served.trust() if tls else None
        client = await connect(served.port, receive_buffer=4096)
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection(
            sock=client, limit=1, ssl=context, server_hostname="127.0.0.1" if tls else None
        )
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        start = loop.time()
        assert await reader.readexactly(1) == b"H"
        # Everybody else is served at once meanwhile.
        for _ in range(3):
            assert (await served.get("/-/healthy", context=context)).status == 200
            assert len(await (await served.get(context=context)).text()) == len(BIG)
        dup = writer.get_extra_info("socket")
        await wait_until(lambda: is_closed(dup), "the slow client is cut", 20)
        assert loop.time() - start >= 1.4
        writer.transport.abort()


async def test_slow_headers_are_cut(server: Serve) -> None:
    """A byte at a time, none of them late: it is the whole that has a bound."""
    async with server(bounds=Bounds(request=0.6)) as served:
        client = await connect(served.port)
        loop = asyncio.get_running_loop()
        start = loop.time()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):  # noqa: PT012 - the loop is what ends by it
            for byte in b"GET /metrics HTTP/1.1\r\nX-A: " + b"a" * 1000:
                await loop.sock_sendall(client, bytes([byte]))
                await asyncio.sleep(0.05)
        assert 0.5 < loop.time() - start < 10
        client.close()


async def test_slow_headers_of_a_second_request_are_cut_too(server: Serve) -> None:
    async with server(bounds=Bounds(request=0.6)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readuntil(b"healthy\n")).startswith(b"HTTP/1.1 200")
        writer.write(b"G")
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()


async def test_silent_client_is_cut_before_and_in_the_handshake(server: Serve) -> None:
    async with server(bounds=Bounds(request=0.3)) as served:
        client = await connect(served.port)
        await wait_until(lambda: is_closed(client), "the silent client is cut", 10)
        client.close()
    async with server(TLS, bounds=Bounds(handshake=0.3)) as served:
        client = await connect(served.port)
        await wait_until(lambda: is_closed(client), "the silent client is cut", 10)
        client.close()


async def test_idle_connection_goes_after_its_time_and_not_before(server: Serve) -> None:
    async with server(bounds=Bounds(answer=0.2, request=0.2, idle=1.0)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        loop = asyncio.get_running_loop()
        start = loop.time()
        writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"healthy\n")
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        assert loop.time() - start >= 0.9
        writer.close()


async def test_beyond_the_bound_the_longest_idle_connection_goes(server: Serve) -> None:
    async with server(bounds=Bounds(connections=3, answer=0.05)) as served:
        streams = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"healthy\n")
            streams.append((reader, writer))
        assert (await served.get("/-/healthy")).status == 200
        with pytest.raises(ConnectionResetError):
            await streams[0][0].readexactly(1)
        streams[2][1].write(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await streams[2][0].readuntil(b"healthy\n")).startswith(b"HTTP/1.1 200")
        for _, writer in streams:
            writer.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: a\r\n" % number for number in range(10_000)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0" * 1000,
    ],
    ids=["header", "path", "headers", "tls", "version", "zeros"],
)
async def test_junk_is_refused_without_a_trace_in_the_log(
    server: Serve, capsys: pytest.CaptureFixture[str], request_bytes: bytes
) -> None:
    async with server() as served:
        logs.setup("info", "console")
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(request_bytes)
        try:
            answer = await asyncio.wait_for(reader.read(1 << 20), 10)
        except ConnectionResetError:
            answer = b""  # closed while we were still writing
        assert answer == b"" or answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
        writer.close()
        assert (await served.get("/-/healthy")).status == 200
    assert "Traceback" not in capsys.readouterr().err


async def test_twenty_scrapers_at_once_are_all_served(server: Serve) -> None:
    running = 0
    most = 0

    def scrape(_: Format) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.02)  # a scrape of a big machine
        running -= 1
        return b"up 1\n"

    async with server(USERS, scrape=scrape) as served:
        answers = await asyncio.gather(*(served.get(auth=("me", "secret")) for _ in range(20)))
    assert [answer.status for answer in answers] == [200] * 20
    assert most == 1


@pytest.mark.parametrize("hour", [3600, -3600])
async def test_clock_that_jumps_an_hour_changes_nothing(
    server: Serve, monkeypatch: pytest.MonkeyPatch, hour: int
) -> None:
    real = time.time
    async with server(USERS, bounds=Bounds(request=5, idle=5)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        request = b"GET /-/healthy HTTP/1.1\r\nHost: a\r\nAuthorization: Basic bWU6c2VjcmV0\r\n\r\n"
        writer.write(request)
        await reader.readuntil(b"healthy\n")
        monkeypatch.setattr(time, "time", lambda: real() + hour)
        writer.write(request)
        assert (await reader.readuntil(b"healthy\n")).startswith(b"HTTP/1.1 200")
        assert (await served.get()).status == 401
        served.write(f"basic_auth_users:\n  me: {OTHER_HASH}\n")
        assert (await served.get(auth=("me", "other"))).status == 200
        writer.close()


async def test_tls_connection_that_was_closed_twice_is_still_cut(tmp_path: Path, authority: Authority) -> None:
    """That is what aiohttp does to a client that has yet to read; its transport then knows nothing any more."""
    authority.server().write(tmp_path, "server")
    (tmp_path / "web.yml").write_text(TLS)
    loop = asyncio.get_running_loop()
    closed, lost = asyncio.Event(), asyncio.Event()

    class ClosesTwice(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()
            transport.close()
            closed.set()

        def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever it was
            lost.set()

    listeners = listen([Address("127.0.0.1", 0)])
    # The shutdown of TLS waits as long as the handshake may: its client, which says nothing more, is not waited for.
    connections = Connections(LiveConfig(tmp_path / "web.yml").current, Bounds(handshake=600.0))
    connections.start(ClosesTwice, listeners)
    context = ssl.create_default_context(cadata=authority.pem.decode())
    plain = socket.create_connection(listeners[0].getsockname())
    client = await loop.run_in_executor(None, lambda: context.wrap_socket(plain, server_hostname="127.0.0.1"))
    await closed.wait()
    connections.cut()
    async with asyncio.timeout(60):
        await lost.wait()
    client.close()
    await connections.stop()
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_slow_reader_and_password_checks_do_not_hold_up_the_end(server: Serve, tls: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Of the 5 s that a hasty init gives, 3 are enough, whoever is still connected."""
    dear = f"basic_auth_users:\n  me: {HASH}\n  you: {bcrypt.hashpw(b'x', bcrypt.gensalt(12)).decode()}\n"
    loop = asyncio.get_running_loop()
    async with server(dear + (TLS if tls else ""), scrape=lambda _: BIG) as served:
        context = served.trust() if tls else None
        client = await connect(served.port, receive_buffer=4096)
        reader, writer = await asyncio.open_connection(
            sock=client, limit=1, ssl=context, server_hostname="127.0.0.1" if tls else None
        )
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: Basic bWU6c2VjcmV0\r\n\r\n")
        assert await reader.readexactly(1) == b"H"
        silent = await connect(served.port)
        wrong = [asyncio.ensure_future(served.get(auth=("you", str(n)), context=context)) for n in range(4)]
        # One has been checked; the others wait, for their turn and for the rest after it.
        await asyncio.wait(wrong, return_when=asyncio.FIRST_COMPLETED)
        start = loop.time()
    assert loop.time() - start < 3
    await asyncio.gather(*wrong, return_exceptions=True)
    writer.transport.abort()
    silent.close()
