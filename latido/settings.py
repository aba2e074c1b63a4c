"""Settings that every program shares: a flag, an environment variable and a line of a YAML file are one setting.

A program declares a frozen dataclass whose fields are made by `setting()` (or, for a nested dataclass, by `group()`);
`load()` fills it. Precedence: flag, environment, file given by `--config.file`, default. The environment's name is
`LATIDO_` and the flag in capitals with `_` for `.` and `-`: `--push.interval` is `LATIDO_PUSH_INTERVAL`.
Every value passes the same parser wherever it came from, so an error names its origin and what was expected.
"""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import math
import os
import re
import ssl
import stat
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from latido import __version__, logs

MAX_CONFIG_BYTES: Final = 64 << 10
"""Of a --config.file: twenty times what all settings take."""
MAX_BRACKETS: Final = 200
"""Lists and maps in brackets, of a YAML file. PyYAML looks at each open one for every token: seconds for thousands."""

T = TypeVar("T")

_KEY: Final = "latido.setting"
_GROUP: Final = "latido.group"


class SettingsError(Exception):
    """A setting that cannot be used. The message names the flag, variable or file, and what to do."""


@dataclass(frozen=True)
class _Setting:
    flag: str
    parse: Callable[[str], Any]
    help: str
    metavar: str
    repeated: bool
    secret: bool


def setting(
    flag: str,
    parse: Callable[[str], Any],
    default: str | None,
    help: str,  # noqa: A002 - argparse's word for it
    *,
    metavar: str = "VALUE",
    repeated: bool = False,
    secret: bool = False,
) -> Any:  # noqa: ANN401 - the field's own annotation is the type, as with dataclasses.field
    """Declare a setting.

    `default` is text and goes through `parse` like any other origin; None means not given (the field is `T | None`,
    or an empty tuple when `repeated`). A `repeated` setting is a tuple: the flag may be given several times, the
    environment and the file separate values by commas. A `secret` one is refused as a flag when `parse` finds
    a secret in it (it raises `SecretInArgumentsError` through `Dsn`), since arguments are visible to every user.
    """
    declared = _Setting(flag, parse, help, metavar, repeated, secret)
    return field(metadata={_KEY: (declared, default)})


def group(cls: type[T]) -> T:
    """Declare a nested settings dataclass whose flags stand beside this one's."""
    return cast(T, field(metadata={_GROUP: cls}))


def load(cls: type[T], prog: str, description: str, argv: Sequence[str], environ: Mapping[str, str]) -> T:
    """Fill `cls` from `argv`, `environ` and the file that `--config.file` names.

    Prints help and exits 0 on `--help`, the version on `--version`. Raises SettingsError for a value that
    does not parse, SystemExit(2) for an unknown flag, as argparse does.
    """
    parser = _Parser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"latido {version()}")
    parser.add_argument(
        "--config.file",
        metavar="FILE",
        default=environ.get("LATIDO_CONFIG_FILE"),
        help="YAML file of settings, `flag-without-dashes: value` (LATIDO_CONFIG_FILE)",
    )
    declared = list(_declared(cls))
    for item, default in declared:
        _add_argument(parser, item, default)
    given = vars(parser.parse_args(list(argv)))
    filename = given["config.file"]
    from_file = _read_config_file(Path(filename), {item.flag for item, _ in declared}) if filename else {}

    def resolve(item: _Setting, default: str | None) -> object:
        variable = environment_name(item.flag)
        if given[item.flag] is not None:
            value, origin = given[item.flag], f"--{item.flag}"
            if item.secret and _holds_password(value):
                raise SettingsError(
                    f"{origin}: arguments, and a password in them, are visible to every user of this machine; "
                    f"put the value into the variable {variable}, or the password into a file (--db.password-file)"
                )
        elif variable in environ:
            value, origin = environ[variable], f"variable {variable}"
        elif item.flag in from_file:
            value, origin = from_file[item.flag], f"{filename}: {item.flag}"
        else:
            value, origin = default, f"default of --{item.flag}"
        return _parse(item, value, origin)

    return _build(cls, resolve)


def _build(cls: type[T], resolve: Callable[[_Setting, str | None], object]) -> T:
    values: dict[str, object] = {}
    for member in dataclasses.fields(cast(Any, cls)):
        if _GROUP in member.metadata:
            values[member.name] = _build(member.metadata[_GROUP], resolve)
        else:
            values[member.name] = resolve(*member.metadata[_KEY])
    return cls(**values)


def _declared(cls: type[object]) -> Iterable[tuple[_Setting, str | None]]:
    for member in dataclasses.fields(cast(Any, cls)):
        if _GROUP in member.metadata:
            yield from _declared(member.metadata[_GROUP])
        else:
            yield member.metadata[_KEY]


class Described(NamedTuple):
    """A setting as documentation shows it."""

    flag: str
    variable: str
    metavar: str
    default: str
    """As text, "" without one."""
    help: str
    repeated: bool


def described(cls: type[object]) -> list[Described]:
    """Return the settings that a class declares, in their order."""
    return [
        Described(
            item.flag,
            environment_name(item.flag),
            "" if item.parse is boolean else item.metavar,
            default or "",
            item.help,
            item.repeated,
        )
        for item, default in _declared(cls)
    ]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; `{self.prog} --help` lists the flags")


def _add_argument(parser: argparse.ArgumentParser, item: _Setting, default: str | None) -> None:
    text = f"{item.help} ({environment_name(item.flag)}"
    text += f"; default {default})" if default else ")"
    text = text.replace("%", "%%")
    # dest: argparse would turn the dashes of a flag into underscores
    if item.parse is boolean:
        parser.add_argument(
            f"--{item.flag}", dest=item.flag, action=argparse.BooleanOptionalAction, default=None, help=text
        )
    elif item.repeated:
        parser.add_argument(
            f"--{item.flag}", dest=item.flag, action="append", metavar=item.metavar, default=None, help=text
        )
    else:
        parser.add_argument(f"--{item.flag}", dest=item.flag, metavar=item.metavar, default=None, help=text)


def _parse(item: _Setting, value: object, origin: str) -> object:
    if value is None:
        return () if item.repeated else None
    if item.repeated:
        parts = value if isinstance(value, list) else [part.strip() for part in str(value).split(",") if part.strip()]
        return tuple(_parse_one(item, part, origin) for part in parts)
    return _parse_one(item, value, origin)


def _parse_one(item: _Setting, value: object, origin: str) -> object:
    if isinstance(value, (list, dict)):
        raise SettingsError(f"{origin}: expected one value")
    text = ("true" if value else "false") if isinstance(value, bool) else str(value)
    try:
        return item.parse(text)
    except ValueError as error:
        raise SettingsError(f"{origin}: {error}") from None


def _read_config_file(path: Path, known: set[str]) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_config(data, path, known)


def parse_config(data: bytes, path: Path, known: Collection[str]) -> dict[str, object]:
    """Return the settings of a --config.file by name. Raises SettingsError."""
    if len(data) > MAX_CONFIG_BYTES:
        raise SettingsError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes")
    document = load_yaml(data, str(path))
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: expected settings as `name: value`, one a line")
    for name in document:
        if name not in known:
            raise SettingsError(f"{path}: unknown setting {name!r:.100}; `--help` lists them")
    return cast(dict[str, object], document)


def load_yaml(data: bytes, name: str) -> object:
    """Return what a YAML document holds. Raises SettingsError, which does not repeat its text: it may hold a secret."""
    import yaml  # noqa: PLC0415 - only where a file is given: `latido --help` stays quick

    if data.count(b"[") + data.count(b"{") > MAX_BRACKETS:
        raise SettingsError(f"{name}: more than {MAX_BRACKETS} lists in brackets")
    try:
        return cast(object, yaml.safe_load(data.decode("utf-8")))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or a date such as 2026-13-01
        raise SettingsError(not_yaml(name, error)) from None


def not_yaml(name: str, error: Exception) -> str:
    """Return where a file is not YAML, and why, without its text."""
    mark = getattr(error, "problem_mark", None)
    line = f":{mark.line + 1}" if mark is not None else ""
    nested = "lists within lists, without end" if isinstance(error, RecursionError) else None
    return f"{name}{line}: not YAML: {nested or getattr(error, 'problem', None) or 'unreadable'}"


def environment_name(flag: str) -> str:
    """Return the environment variable that stands for a flag."""
    return "LATIDO_" + re.sub(r"[.-]", "_", flag).upper()


def version() -> str:
    """Return the version of Latido."""
    return __version__  # importlib.metadata would load 3 MiB of parsers for it


# --- parsers: text in, value out, ValueError with what was expected ---


def text(value: str) -> str:
    """Any text that is not empty."""
    if not value:
        raise ValueError("expected a value, got nothing")
    return value


def boolean(value: str) -> bool:
    """Return the truth value of true/false, yes/no, on/off or 1/0."""
    lowered = value.lower()
    if lowered in {"1", "true", "yes", "on"}:
        return True
    if lowered in {"0", "false", "no", "off"}:
        return False
    raise ValueError(f"expected true or false, got {value!r}")


_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(value: str) -> float:
    """Return seconds from a duration in Prometheus's form: `500ms`, `5s`, `1h30m`, `7d`."""
    parts = _DURATION.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise ValueError(f"expected a duration such as 500ms, 5s, 1h30m or 7d, got {value!r}")
    return math.fsum(float(number) * _SECONDS[unit] for number, unit in parts)


def positive_duration(value: str) -> float:
    """Return seconds from a duration that is more than nothing."""
    seconds = duration(value)
    if seconds <= 0:
        raise ValueError(f"expected a duration longer than 0, got {value!r}")
    return seconds


_SIZE: Final = re.compile(r"(\d+)(B|KiB|MiB|GiB|)", re.IGNORECASE)
_BYTES: Final = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def size(value: str) -> int:
    """Return bytes from a size: `65536`, `64KiB`, `256MiB`, `2GiB`."""
    match = _SIZE.fullmatch(value)
    if match is None:
        raise ValueError(f"expected a size such as 64KiB, 256MiB or 2GiB, got {value!r}")
    return int(match[1]) * _BYTES[match[2].lower()]


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `low` to `high`, both included."""

    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"expected a whole number from {low} to {high}, got {value!r}")
        return number

    return parse


def choice(*allowed: str) -> Callable[[str], str]:
    """Return a parser that takes one of some words."""

    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}, got {value!r}")
        return value

    return parse


def path(value: str) -> Path:
    """Return a path; whether it exists is its user's question."""
    return Path(text(value)).expanduser()


@dataclass(frozen=True)
class Address:
    """Where a program listens: a host name or IP address, and a port (0: a free one)."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        """Return the form that `address` parses."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(value: str) -> Address:
    """Return an address from `HOST:PORT`, `[IPv6]:PORT` or `:PORT` (every interface)."""
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - the largest port
        raise ValueError(f"expected HOST:PORT such as 127.0.0.1:10110, got {value!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"expected an IPv6 address in brackets, such as [::1]:10110, got {value!r}")
    return Address(host or "0.0.0.0", int(port))  # noqa: S104 - what `:PORT` asks for; guard() wants a token for it


def http_url(value: str) -> str:
    """Return an http or https URL without a trailing slash."""
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"expected a URL such as http://127.0.0.1:10111, got {value!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("expected a URL without user, query or fragment; tokens go into a file")
    return value.rstrip("/")


@dataclass(frozen=True)
class Dsn:
    """How a MySQL database is reached: `mysql://USER[:PASSWORD]@HOST[:PORT]/DATABASE[?ssl-ca=FILE]`."""

    user: str
    password: str = field(repr=False)
    host: str
    port: int
    database: str
    ssl_ca: str | None = None

    def __str__(self) -> str:
        """Return the DSN without its password: this form may be logged."""
        return f"mysql://{self.user}@{self.host}:{self.port}/{self.database}"


def dsn(value: str) -> Dsn:
    """Return the parts of a MySQL DSN; parts with `@`, `:` or `/` in them are percent-encoded."""
    try:
        parts = urlsplit(value)
        port = parts.port or 3306
    except ValueError:
        parts, port = urlsplit(""), 0
    options = dict(parse_qsl(parts.query))
    database = parts.path.removeprefix("/")
    if (
        parts.scheme != "mysql"
        or not parts.hostname
        or not parts.username
        or not database
        or options.keys() - {"ssl-ca"}
    ):
        # The value is not repeated: it may hold a password.
        raise ValueError("expected mysql://USER:PASSWORD@HOST:PORT/DATABASE, with ?ssl-ca=FILE for TLS")
    return Dsn(
        user=unquote(parts.username),
        password=unquote(parts.password or ""),
        host=parts.hostname,
        port=port,
        database=unquote(database),
        ssl_ca=options.get("ssl-ca"),
    )


def _holds_password(value: object) -> bool:
    return bool(urlsplit(str(value)).password)


# --- groups of settings that several programs take ---


@dataclass(frozen=True)
class LogSettings:
    """How a program logs."""

    level: str = setting("log.level", choice(*logs.LEVELS), "info", "least important level shown", metavar="LEVEL")
    format: logs.Format = setting(
        "log.format", choice(*logs.FORMATS), "console", "`console` for people, `json` for machines", metavar="FORMAT"
    )


@dataclass(frozen=True)
class DatabaseSettings:
    """Where a program finds MySQL or MariaDB."""

    dsn: Dsn = setting(
        "db.dsn",
        dsn,
        "mysql://latido@127.0.0.1:3306/latido",
        "database, as mysql://USER:PASSWORD@HOST:PORT/DATABASE",
        metavar="DSN",
        secret=True,
    )
    password_file: Path | None = setting(
        "db.password-file", path, None, "file that holds the database password alone", metavar="FILE"
    )

    def resolved(self) -> Dsn:
        """Return the DSN with the password of `--db.password-file`, where given. Raises SettingsError.

        Its `ssl-ca` is tried: drivers would say of a file that is not there that the database is away, if that.
        """
        if self.dsn.ssl_ca is not None:
            load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), Path(self.dsn.ssl_ca), flag="db.dsn")
        if self.password_file is None:
            return self.dsn
        return dataclasses.replace(self.dsn, password=read_secret(self.password_file, "--db.password-file"))


def read_secret(path: Path, flag: str) -> str:
    """Return a secret kept alone in a file, without the line's end. Raises SettingsError naming flag and file."""
    try:
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IROTH:
                raise SettingsError(f"{flag}: {path} is readable by every user; `chmod o-r {path}`")
            secret = file.read(4097).rstrip("\r\n")
    except OSError as error:
        raise SettingsError(f"{flag}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{flag}: {path} is not text") from None
    if not secret or len(secret) > 4096 or not secret.isprintable():  # noqa: PLR2004 - the bound read above
        raise SettingsError(f"{flag}: {path} must hold one line of at most 4096 printable characters")
    return secret


def load_pair(context: ssl.SSLContext, certificate: Path, key: Path, *, flags: tuple[str, str]) -> None:
    """Give a TLS context its certificate chain and key. Raises SettingsError naming the flag and the file."""

    def refuse_password() -> NoReturn:
        # Without this OpenSSL would ask on the terminal.
        raise SettingsError(f"--{flags[1]}: {key} is encrypted; only a key without password can be used")

    for flag, file in zip(flags, (certificate, key), strict=True):
        _check_readable(file, flag)
    try:
        context.load_cert_chain(certificate, key, password=refuse_password)
    except ssl.SSLError as error:
        reason = error.reason or "not PEM"
        raise SettingsError(f"--{flags[0]}: {certificate} and {key} do not form a pair: {reason}") from None


def load_authorities(context: ssl.SSLContext, file: Path, *, flag: str) -> None:
    """Have a TLS context trust the authorities of a PEM file. Raises SettingsError naming the flag and the file."""
    _check_readable(file, flag)
    try:
        context.load_verify_locations(cafile=file)
    except ssl.SSLError:
        raise SettingsError(f"--{flag}: {file} holds no certificate in PEM") from None


def _check_readable(file: Path, flag: str) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise SettingsError(f"--{flag}: {file} cannot be read: {error.strerror}") from None


def guard(
    listen: Address,
    *,
    has_token: bool,
    insecure: bool,
    flag: str,
    token_flag: str | None = None,
    remedy: str = "listen",
) -> None:
    """Refuse to listen beyond loopback without a token, unless the user says that this is meant.

    `token_flag` is the flag that would give one, where the program takes tokens; `remedy` says another way, up to
    the word "listen". Raises SettingsError.
    """
    if not (listen.is_loopback or has_token or insecure):
        remedy = f"give tokens with --{token_flag}, listen" if token_flag else remedy
        raise SettingsError(
            f"--{flag}: {listen} is reachable from other machines and every caller would be served; "
            f"{remedy} on 127.0.0.1, or say --insecure"
        )


def run(prog: str, body: Callable[[], int]) -> int:
    """Run a command's body; a user's mistake becomes one line on standard error and exit status 2."""
    try:
        return body()
    except SettingsError as error:
        sys.stderr.write(f"{prog}: {error}\n")
        return 2
