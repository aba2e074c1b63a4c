"""Settings: four origins, one parser, errors that name the origin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from latido import settings
from latido.settings import Address, DatabaseSettings, Dsn, SettingsError, group, setting


@dataclass(frozen=True)
class Example:
    """One setting of each kind."""

    interval: float = setting("push.interval", settings.positive_duration, "5s", "time between samples")
    urls: tuple[str, ...] = setting("push.url", settings.http_url, None, "an API", repeated=True)
    cpu: bool = setting("collector.cpu", settings.boolean, "true", "expose CPU")
    days_back: int = setting("days-back", settings.integer(0, 9), "3", "days")
    name: str | None = setting("name", settings.text, None, "a name, 100% free")
    database: DatabaseSettings = group(DatabaseSettings)


def load(*argv: str, **environ: str) -> Example:
    """Load the example."""
    return settings.load(Example, "latido example", "An example.", argv, environ)


def test_defaults() -> None:
    found = load()
    assert (5.0, (), True, 3, None) == (found.interval, found.urls, found.cpu, found.days_back, found.name)
    assert "mysql://latido@127.0.0.1:3306/latido" == str(found.database.dsn)


def test_a_flag_beats_the_environment_and_that_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "latido.yaml"
    file.write_text("push.interval: 1m\ndays-back: 1\ncollector.cpu: no\npush.url: [http://a, http://b/]\n")
    flag = f"--config.file={file}"
    assert 60.0 == load(flag).interval
    assert ("http://a", "http://b") == load(flag).urls
    assert load(flag).cpu is False
    assert 2.0 == load(flag, LATIDO_PUSH_INTERVAL="2s").interval
    assert 3.0 == load(flag, "--push.interval=3s", LATIDO_PUSH_INTERVAL="2s").interval
    assert 60.0 == load(LATIDO_CONFIG_FILE=str(file)).interval


def test_repeated_and_negated_flags() -> None:
    assert ("http://a", "http://b:1") == load("--push.url=http://a", "--push.url", "http://b:1").urls
    assert ("http://a", "http://b") == load(LATIDO_PUSH_URL="http://a, http://b").urls
    assert load("--no-collector.cpu").cpu is False
    assert load(LATIDO_COLLECTOR_CPU="off").cpu is False


@pytest.mark.parametrize(
    ("argv", "environ", "message"),
    [
        (["--push.interval=abc"], {}, "--push.interval: expected a duration such as 500ms, 5s"),
        (["--push.interval=0s"], {}, "--push.interval: expected a duration longer than 0"),
        ([], {"LATIDO_PUSH_INTERVAL": "5"}, "variable LATIDO_PUSH_INTERVAL: expected a duration"),
        (["--days-back=10"], {}, "--days-back: expected a whole number from 0 to 9, got '10'"),
        (["--push.url=ftp://x"], {}, "--push.url: expected a URL"),
        (["--push.url=http://me:secret@x"], {}, "--push.url: expected a URL without user"),
        (["--unknown"], {}, "unrecognized arguments: --unknown; `latido example --help` lists the flags"),
        (["--config.file=/nowhere.yaml"], {}, "/nowhere.yaml: cannot be read: No such file or directory"),
        (["--name="], {}, "--name: expected a value, got nothing"),
        (["--db.dsn=mysql://u:secret@h/d"], {}, "LATIDO_DB_DSN"),
        ([], {"LATIDO_DB_DSN": "mysql://u:secret@h"}, "variable LATIDO_DB_DSN: expected mysql://"),
    ],
)
def test_errors_name_the_origin_and_never_a_secret(argv: list[str], environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(*argv, **environ)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "not YAML"),
        ("- a", "expected settings"),
        ("nonsense: 1", "unknown setting 'nonsense'"),
        ("name: 2026-13-01", "not YAML"),
        ("- " * 5000, "not YAML: lists within lists"),
        ("[" * 5000, "more than 200 lists in brackets"),
        ("name: {a: secret}", "expected one value"),
        ("db.dsn: mysql://u:secret@h/d: e", ":1: not YAML"),
        ("#" * (settings.MAX_CONFIG_BYTES + 1), "larger than"),
    ],
    ids=lambda value: value[:20],
)
def test_a_file_that_is_wrong_is_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "latido.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=message) as caught:
        load(f"--config.file={file}")
    assert str(file) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_help_names_variables_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load("--help")
    assert 0 == caught.value.code
    text = " ".join(capsys.readouterr().out.split())
    assert "time between samples (LATIDO_PUSH_INTERVAL; default 5s)" in text
    assert "a name, 100% free" in text


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (settings.duration, "500ms", 0.5),
        (settings.duration, "1h30m", 5400.0),
        (settings.duration, "7d", 604800.0),
        (settings.duration, "0s", 0.0),
        (settings.size, "65536", 65536),
        (settings.size, "64KiB", 65536),
        (settings.size, "2GiB", 2 << 30),
        (settings.address, "127.0.0.1:10110", Address("127.0.0.1", 10110)),
        (settings.address, "[::1]:0", Address("::1", 0)),
        (settings.address, ":10110", Address("0.0.0.0", 10110)),
        (settings.dsn, "mysql://u:p%40w@h:1/d?ssl-ca=/ca", Dsn("u", "p@w", "h", 1, "d", "/ca")),
        (settings.dsn, "mysql://u@[::1]/d", Dsn("u", "", "::1", 3306, "d")),
        (settings.http_url, "https://host:1/prefix/", "https://host:1/prefix"),
    ],
)
def test_values(parse: Callable[[str], object], text: str, expected: object) -> None:
    assert expected == parse(text)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (settings.duration, "5"),
        (settings.duration, "5 s"),
        (settings.duration, "-5s"),
        (settings.size, "2GB"),
        (settings.address, "10110"),
        (settings.address, "::1:10110"),
        (settings.address, "host:99999"),
        (settings.boolean, "maybe"),
        (settings.dsn, "postgres://u@h/d"),
        (settings.dsn, "mysql://u@h:port/d"),
        (settings.dsn, "mysql://u@h/d?charset=x"),
    ],
)
def test_values_that_are_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse(text)


def test_loopback_needs_no_token_and_the_world_does() -> None:
    for text in ("127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "localhost:1"):
        settings.guard(settings.address(text), has_token=False, insecure=False, flag="web.listen-address")
    for text in (":1", "0.0.0.0:1", "192.0.2.1:1", "[::]:1", "example:1"):
        world = settings.address(text)
        with pytest.raises(SettingsError, match=r"--auth\.token-file"):
            settings.guard(
                world, has_token=False, insecure=False, flag="web.listen-address", token_flag="auth.token-file"
            )
        settings.guard(world, has_token=True, insecure=False, flag="web.listen-address")
        settings.guard(world, has_token=False, insecure=True, flag="web.listen-address")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read: No such file"), ("nothing", "holds no certificate in PEM")]
)
def test_the_database_s_authorities_are_tried_at_the_start(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    given = load(f"--db.dsn=mysql://u@h/d?ssl-ca={file}").database
    with pytest.raises(SettingsError, match=f"^--db.dsn: {file} {message}"):
        given.resolved()


def test_a_secret_file_must_be_private_and_one_line(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    file.chmod(0o640)
    assert "s3cret" == settings.read_secret(file, "--db.password-file")
    database = load("--db.dsn=mysql://u@h/d", f"--db.password-file={file}").database.resolved()
    assert "s3cret" == database.password
    assert "s3cret" not in repr(database) + str(database)
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="readable by every user"):
        settings.read_secret(file, "--db.password-file")
    file.chmod(0o600)
    for content in ("", "two\nlines", "x" * 5000):
        file.write_text(content)
        with pytest.raises(SettingsError, match="must hold one line"):
            settings.read_secret(file, "--db.password-file")
