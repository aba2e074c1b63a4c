"""Every parser that reads what others wrote, with the only errors that it may raise and what it is fuzzed from.

The corpus is what the repository holds anyway: fixtures of tests, the contract's vectors, the documents' own examples.
"""

from __future__ import annotations

import atexit
import functools
import gzip
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import zstandard

from bridge_ws import protocol
from bridge_ws.protocol import ProtocolError
from exporter.model import SourceError
from exporter.rules import document, process_exporter
from exporter.rules.errors import RulesError
from exporter.serving import config
from exporter.sources import procfs_parse, record
from exporter.sources.bpf import cgroups, skeleton
from exporter.sources.kmod import KmodSource
from ingest.contract import tokens, vectors
from ingest.contract.encoding import inflate
from ingest.contract.problems import Problem
from ingest.contract.wire import Feed, parse_accepted
from ingest.raw import decode as raw
from latido import settings
from latido.settings import SettingsError
from latido.top import frames as frames_of
from latido.top.frames import FrameError
from loadtest import recording
from loadtest.recording import RecordingError

ROOT: Final = Path(__file__).parents[2]
PROC: Final = ROOT / "exporter/tests/fixtures/proc"
KMOD: Final = ROOT / "exporter/tests/fixtures/kmod"
KMOD_FILES: Final = ("latido_ram", "latido_cpu", "latido_procesos.bin")
NOW_MS: Final = 1_795_000_000_000
WHERE: Final = "a file"
_DEEP: Final = (b"[" * 5000, b'{"a":' * 5000)
"""JSON that no stack is deep enough for."""


@dataclass(frozen=True)
class Parser:
    """What is fuzzed: `parse` takes bytes and raises nothing but `allowed`."""

    name: str
    parse: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    corpus: Sequence[bytes]
    words: Sequence[bytes] = ()
    """Pieces that mean something to it."""


def parsers() -> list[Parser]:
    """Return all of them."""
    return [*_procfs(), _kmod(), *_records(), *_ingest(), *_answers(), *_bridge(), *_files(), *_results()]


def _procfs() -> list[Parser]:
    files = {name: [file.read_bytes() for file in sorted(PROC.glob(f"[0-9]*/{name}"))] for name in _OF_A_PROCESS}
    found = [
        Parser(f"/proc/PID/{name}", functools.partial(parse, path=WHERE), (SourceError,), files[name], _NUMBERS)
        for name, parse in _OF_A_PROCESS.items()
    ]
    loadavg = (PROC / "loadavg").read_bytes()
    stat = (PROC / "stat").read_bytes()
    return [
        *found,
        Parser(
            "/proc/meminfo",
            functools.partial(procfs_parse.meminfo, path=WHERE),
            (SourceError,),
            [(PROC / "meminfo").read_bytes()],
            (*_NUMBERS, b"MemTotal:", b" kB"),
        ),
        Parser(
            "/proc/stat",
            lambda data: procfs_parse.cpu_sample(data, WHERE, loadavg, WHERE),
            (SourceError,),
            [stat],
            (*_NUMBERS, b"cpu", b"cpu0 ", b"ctxt ", b"btime "),
        ),
        Parser(
            "/proc/loadavg",
            lambda data: procfs_parse.cpu_sample(stat, WHERE, data, WHERE),
            (SourceError,),
            [loadavg],
            (*_NUMBERS, b"nan", b"inf", b"1e9"),
        ),
        Parser(
            "/proc/self/mounts",
            cgroups.find_mounts,
            (),
            [
                b"cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
                b"cgroup /sys/fs/c\\040x cgroup rw,cpuacct 0 0\nproc /proc proc rw",
            ],
            (b"\\040", b"\\777", b"\\", b"cgroup2 "),
        ),
    ]


_OF_A_PROCESS: Final[dict[str, Callable[..., object]]] = {
    "stat": procfs_parse.process_stat,
    "status": procfs_parse.process_status,
    "io": procfs_parse.process_io,
    "cgroup": procfs_parse.process_cgroup,
}
_NUMBERS: Final = (b"9" * 40, b"-1", b"18446744073709551616", b") S ", b"(", b"\0", b"1_0", b"\xd9\xa1", b"\n")


@functools.cache
def _kmod_folder() -> Path:
    """Return a folder with what completes the modules' files, until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="latido-fuzz-"))
    atexit.register(shutil.rmtree, folder)
    shutil.copy(PROC / "meminfo", folder)
    shutil.copy(PROC / "stat", folder)
    with (folder / "latido_procesos.exits").open("wb") as file:  # each at its number, as the module places it
        for row in np.fromfile(KMOD / "exits.bin", record.RECORD_DTYPE):
            file.seek(int(row["number"]) * record.RECORD_DTYPE.itemsize)
            file.write(row.tobytes())
    return folder


def _kmod() -> Parser:
    """Return the source itself over its three files, one of which is damaged."""
    originals = {name: (KMOD / name).read_bytes() for name in KMOD_FILES}

    def parse(data: bytes) -> None:
        folder = _kmod_folder()
        number, content = data[:1], data[1:]
        chosen = KMOD_FILES[(number or b"\0")[0] % len(KMOD_FILES)]
        for name, whole in originals.items():
            (folder / name).write_bytes(content if name == chosen else whole)
        with closing(KmodSource(folder)) as source:
            source.ram()
            source.cpu()
            source.processes()

    corpus = [bytes([number]) + originals[name] for number, name in enumerate(KMOD_FILES)]
    words = (b'"cores":{', b'"0":[', b"null", b"1e400", b"-1", *_DEEP, *_NUMBERS, record.HEAD, record.TAIL)
    return Parser("files of the kernel modules", parse, (SourceError,), corpus, words)


def _records() -> list[Parser]:
    table = (KMOD / "latido_procesos.bin").read_bytes()

    def parse_table(data: bytes) -> None:
        found = record.parse_table(memoryview(data), WHERE)
        paths = record.parse_paths(found.paths, WHERE)
        record.as_processes(found.records, paths)
        record.sums_as_processes(found.sums, paths)

    def parse_exits(data: bytes) -> None:
        record.become_processes(record.parse_records(data, WHERE).copy(), {})

    sealed = (ROOT / "exporter/sources/bpf/latido.skeleton").read_bytes()
    return [
        Parser("table of kmod and bpf", parse_table, (SourceError,), [table], (record.HEAD, record.TAIL)),
        Parser("exit records", parse_exits, (SourceError,), [(KMOD / "exits.bin").read_bytes()]),
        Parser("BPF skeleton", skeleton.unpack, (SourceError, ValueError), [sealed], _DEEP),
    ]


def _ingest() -> list[Parser]:
    def body(data: bytes, feed: Feed) -> None:
        raw.decode(feed, data)

    def packed(data: bytes) -> None:
        encoding = ("gzip", "zstd", None)[(data[:1] or b"\0")[0] % 3]
        inflate(data[1:], encoding, lambda _size: None)

    bodies = {feed: [json.dumps(vectors.base(feed, NOW_MS)).encode()] for feed in Feed}
    words = (b'"processes":[', b'"seq":', b"null", b"true", b"1e400", b"-1", *_DEEP, b"\\ud800")
    found = [
        Parser(
            f"body of {feed.value}", functools.partial(body, feed=feed), (Problem,), bodies[feed], (*words, *_NUMBERS)
        )
        for feed in Feed
    ]
    return [*found, Parser("Content-Encoding", packed, (Problem,), _packed(bodies[Feed.RAM][0]))]


def _packed(body: bytes) -> list[bytes]:
    return [
        b"\0" + gzip.compress(body, mtime=0),
        b"\1" + zstandard.compress(body),
        b"\0" + gzip.compress(bytes(1 << 16), mtime=0),
        b"\2" + body,
    ]


def _answers() -> list[Parser]:
    """Return what our programs are told over the network: by an API, or what answers in its place, and by a bridge."""
    push = json.dumps(vectors.base(Feed.PROCESOS, NOW_MS)["samples"])
    text = push[1:-1].encode()  # one sample
    place = b'"feed":"procesos","host":"web-1","stream":"6f1c6a4e-0000-4000-8000-000000000001"'
    frames = [
        b'{"type":"hello","version":1,"server":"latido/0.1.0","feeds":["ram"],"hosts":["web-1"],"resume":null}',
        b'{"type":"sample",' + place + b',"api":"raw","late":false,"sample":' + text + b"}",
        b'{"type":"gap",' + place + b',"missed":3,"first_seq":1,"last_seq":4}',
        b'{"type":"error","code":"overloaded","detail":"too many"}',
    ]
    words = (b'"sample":', b'"type":', b"null", b"1e400", *_DEEP, b"\\ud800", *_NUMBERS)
    return [
        Parser("answer of an API", parse_accepted, (), [b'{"accepted":20,"duplicates":0}'], words),
        Parser("frame of the bridge", frames_of.parse, (FrameError,), frames, words),
    ]


def _results() -> list[Parser]:
    """Return what load tests read of files."""
    return [
        Parser(
            "recording of a machine",
            recording.decode,
            (RecordingError,),
            [
                (ROOT / "loadtest/data/machine.json").read_bytes(),
            ],
            (*_DEEP, b"null", b"1e400", *_NUMBERS),
        )
    ]


def _bridge() -> list[Parser]:
    messages = [
        b'{"type":"subscribe","feeds":["cpu"],"hosts":["web-1"]}',
        b'{"type":"unsubscribe","hosts":["web-1"]}',
        b'{"type":"backfill","feed":"procesos","host":"web-1","minutes":10,"processes":true}',
        b'{"type":"authenticate","token":"abcdef"}',
    ]
    queries = [b"feeds=ram,cpu&hosts=web-1,web-2", b"resume=1-1795000000000", b"hosts=%77eb&feeds=procesos"]
    return [
        Parser(
            "message of a client",
            lambda data: protocol.parse_message(data.decode("utf-8", "surrogateescape")),
            (ProtocolError,),
            messages,
            (b'"minutes":', b"1e400", b"null", *_DEEP, b"\\ud800"),
        ),
        Parser(
            "query of a client",
            lambda data: protocol.parse_query(data.decode("utf-8", "surrogateescape")),
            (ProtocolError,),
            queries,
            (b"&", b"=", b"%", b"%00", b"%ff", b";", b"resume="),
        ),
    ]


def _files() -> list[Parser]:
    """Return what operators write: a traceback helps nobody at 03:12."""
    rules, web = _yaml("docs/grouping.md"), _yaml("docs/web-configuration.md")
    old = [OLD_RULES]
    bomb = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (name, name, b",".join([b"*%c" % (name - 1)] * 9)) for name in b"bcdefgh"
    )
    words = (
        b"&a ",
        b"*a",
        b"<<: ",
        b"!!python/object:os.system ",
        b"? ",
        b"|\n",
        b"'",
        b'"',
        b"{",
        b"[",
        b"\t",
        b"---\n",
    )
    return [
        Parser("group rules", lambda data: document.parse_rules(_text(data)), (RulesError,), [*rules, bomb], words),
        Parser(
            "process-exporter's rules",
            lambda data: process_exporter.convert(_text(data)),
            (RulesError,),
            [*old, bomb],
            words,
        ),
        Parser(
            "web.yml", lambda data: config.parse(_text(data), Path("web.yml")), (SettingsError,), [*web, bomb], words
        ),
        Parser(
            "settings file",
            lambda data: settings.parse_config(data, Path("latido.yml"), {"db.dsn", "push.url", "log.level"}),
            (SettingsError,),
            [b"db.dsn: mysql://u@h/d\npush.url: [http://a:1, http://b:2]\nlog.level: debug\n", bomb],
            (*words, b"2026-13-01", b"0b2", b"1_0:99", b"!!binary ", b"[" * 190, b"- " * 1000),
        ),
        Parser(
            "token file",
            lambda data: tokens.parse(_text(data).splitlines()),
            (ValueError, SettingsError),
            [b"a-token-0123456789abcdef web-1 web-2\n# comment\nanother-token-0123456789\n"],
        ),
        Parser(
            "DSN",
            lambda data: settings.dsn(_text(data)),
            (ValueError,),
            [b"mysql://user:p%40ss@db.example:3306/latido?ssl-ca=/a/b.pem"],
            (b"@", b"%", b":", b"//", b"[", b"]", b"?"),
        ),
    ]


OLD_RULES: Final = b"""process_names:
  - name: "{{.Comm}}"
    cmdline: ['.+']
  - comm: [bash, zsh]
  - exe: [/usr/sbin/nginx, postgres]
    cmdline: ['-D (?P<Data>[^ ]+)']
    name: "{{.ExeBase}}:{{.Matches.Data}}"
"""


def _yaml(path: str) -> list[bytes]:
    """Return the examples of a document."""
    return [
        found.encode()
        for found in re.findall(r"```yaml\n(.*?)```", (ROOT / path).read_text(encoding="utf-8"), re.DOTALL)
    ]


def _text(data: bytes) -> str:
    """Return text as the programs read it: what is not UTF-8 they refuse before they parse."""
    return data.decode("utf-8", "replace")
