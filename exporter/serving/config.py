"""The file of `--web.config.file` as values: text in, values out, errors with file and line.

Format: Prometheus's exporter-toolkit, docs/web-configuration.md. What its Go server does and Python cannot is refused
by name: a restriction that is written down and not kept would be worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from ssl import TLSVersion
from typing import Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from latido import settings
from latido.settings import SettingsError, not_yaml

MAX_COST: Final = 14
"""Of a bcrypt hash: 2^14 rounds take about a second. A check cannot be broken off, and the program ends within 4 s."""


class WebConfigError(SettingsError):
    """The file cannot be used. The message names file, line and key; it holds no secret."""


class ClientAuth(Enum):
    """What a client must show, by the names of Go's crypto/tls."""

    NONE = "NoClientCert"
    IF_GIVEN = "VerifyClientCertIfGiven"
    REQUIRED = "RequireAndVerifyClientCert"


@dataclass(frozen=True)
class TlsConfig:
    """`tls_server_config`. A certificate, key or CA is the path of a PEM file, or the PEM text itself."""

    certificate: Path | str
    key: Path | str = field(repr=False)
    client_ca: Path | str | None
    client_auth: ClientAuth
    allowed_sans: frozenset[str] | None
    min_version: TLSVersion
    max_version: TLSVersion
    ciphers: tuple[str, ...]
    """OpenSSL's names of the TLS 1.2 suites allowed, in order; empty: Python's own choice."""
    prefer_server_ciphers: bool
    curve: str | None
    """OpenSSL's name of the one curve allowed; None: OpenSSL's own choice."""
    where: Mapping[str, str] = field(repr=False, compare=False)
    """Field to `FILE:LINE: key`, for errors found when files are read."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it names."""
        return tuple(item for item in (self.certificate, self.key, self.client_ca) if isinstance(item, Path))


@dataclass(frozen=True)
class RateLimit:
    """`rate_limit`: at most `burst` requests at once, and one more every `interval` seconds."""

    interval: float
    burst: int


@dataclass(frozen=True)
class WebConfig:
    """The whole file."""

    tls: TlsConfig | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    """User name in UTF-8 to bcrypt hash."""
    rate_limit: RateLimit | None = None

    @property
    def authenticates(self) -> bool:
        """Whether a caller must show who they are."""
        return bool(self.users) or (self.tls is not None and self.tls.client_auth is ClientAuth.REQUIRED)


def parse(text: str, path: Path) -> WebConfig:
    """Return the configuration; relative paths in it start from the folder of `path`. Raises WebConfigError."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise WebConfigError(not_yaml(str(path), error)) from None
    if node is None or _is_null(node):
        return WebConfig()
    top = _Section(node, str(path), "", _TOP)
    tls = top.section("tls_server_config", _TLS)
    http = top.section("http_server_config", ("http2", "headers"))
    users = top.section("basic_auth_users", None)
    rate = top.section("rate_limit", ("interval", "burst"))
    return WebConfig(
        tls=_tls(tls, path.parent) if tls else None,
        headers=_http(http) if http else {},
        users=_users(users) if users else {},
        rate_limit=_rate(rate) if rate else None,
    )


# --- sections: names as the toolkit's documentation lists them ---

_TOP: Final = ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit")
_TLS: Final = (
    "cert",
    "key",
    "client_ca",
    "cert_file",
    "key_file",
    "client_ca_file",
    "client_auth_type",
    "client_allowed_sans",
    "min_version",
    "max_version",
    "cipher_suites",
    "prefer_server_cipher_suites",
    "curve_preferences",
)
_UNVERIFIED: Final = ("RequestClientCert", "RequireClientCert", "RequireAnyClientCert")
_VERSIONS: Final = {"TLS12": TLSVersion.TLSv1_2, "TLS13": TLSVersion.TLSv1_3}
_CIPHERS: Final = {
    f"TLS_ECDHE_{signature}_WITH_{name}": f"ECDHE-{signature}-{openssl}"
    for signature in ("ECDSA", "RSA")
    for name, openssl in (
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
    )
}
"""Go's names, which are IANA's, to OpenSSL's: RFC 5289 and RFC 7905."""
_CIPHERS_TLS13: Final = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"})
"""Always offered with TLS 1.3, here as in Go."""
_CURVES: Final = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
_HEADERS: Final[Mapping[str, Collection[str]]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
"""Header to the values it may have (none: any), as the toolkit bounds them."""
_BCRYPT: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
"""The 22nd character of the salt carries two bits of its 128; the others are zero, or bcrypt refuses it."""


def _tls(section: _Section, folder: Path) -> TlsConfig:
    certificate, key = section.pem("cert", folder), section.pem("key", folder)
    if certificate is None or key is None:
        raise section.error(None, f"{'cert_file' if certificate is None else 'key_file'} is missing")
    client_auth, client_ca = _client_auth(section), section.pem("client_ca", folder)
    if client_auth is ClientAuth.NONE and client_ca is not None:
        raise section.error(section.given("client_ca"), "needs client_auth_type: RequireAndVerifyClientCert")
    if client_auth is not ClientAuth.NONE and client_ca is None:
        # Go would ask the system's authorities, and so let in whoever holds any public certificate.
        raise section.error("client_auth_type", "needs client_ca_file: whose certificates to trust")
    sans = section.texts("client_allowed_sans")
    if sans is not None and client_auth is ClientAuth.NONE:
        raise section.error("client_allowed_sans", "needs client_auth_type: RequireAndVerifyClientCert")
    if sans == ():
        raise section.error("client_allowed_sans", "is empty: no client could connect")
    low = _version(section, "min_version", TLSVersion.TLSv1_2)
    high = _version(section, "max_version", TLSVersion.TLSv1_3)
    if low > high:
        raise section.error("min_version", "is above max_version")
    prefer = section.boolean("prefer_server_cipher_suites")
    return TlsConfig(
        certificate=certificate,
        key=key,
        client_ca=client_ca,
        client_auth=client_auth,
        allowed_sans=None if sans is None else frozenset(sans),
        min_version=low,
        max_version=high,
        ciphers=_ciphers(section, low),
        prefer_server_ciphers=True if prefer is None else prefer,
        curve=_curve(section),
        where={
            "certificate": section.where(section.given("cert")),
            "key": section.where(section.given("key")),
            "client_ca": section.where(section.given("client_ca")),
        },
    )


def _client_auth(section: _Section) -> ClientAuth:
    name = section.text("client_auth_type") or ClientAuth.NONE.value
    if name in _UNVERIFIED:
        raise section.error(
            "client_auth_type", f"{name} asks for a certificate without verifying it, which Python's TLS cannot do"
        )
    try:
        return ClientAuth(name)
    except ValueError:
        known = ", ".join(item.value for item in ClientAuth)
        raise section.error("client_auth_type", f"expected one of {known}, got {name!r}") from None


def _version(section: _Section, key: str, default: TLSVersion) -> TLSVersion:
    name = section.text(key)
    if not name:
        return default
    if name in {"TLS10", "TLS11"}:
        raise section.error(key, f"{name} is broken (RFC 8996) and not offered here; use TLS12 or TLS13")
    if name not in _VERSIONS:
        raise section.error(key, f"expected TLS12 or TLS13, got {name!r}")
    return _VERSIONS[name]


def _ciphers(section: _Section, low: TLSVersion) -> tuple[str, ...]:
    names = section.texts("cipher_suites")
    if not names:
        return ()
    for name in names:
        if name not in _CIPHERS and name not in _CIPHERS_TLS13:
            known = ", ".join(_CIPHERS)
            raise section.error("cipher_suites", f"{name!r} is not offered here; for TLS 1.2 there are {known}")
    chosen = tuple(_CIPHERS[name] for name in names if name in _CIPHERS)
    if not chosen and low < TLSVersion.TLSv1_3:
        raise section.error("cipher_suites", "names no suite of TLS 1.2; add one, or say min_version: TLS13")
    return chosen


def _curve(section: _Section) -> str | None:
    names = section.texts("curve_preferences")
    if not names:
        return None
    for name in names:
        if name not in _CURVES:
            raise section.error("curve_preferences", f"expected one of {', '.join(_CURVES)}, got {name!r}")
    if len(names) > 1:
        raise section.error("curve_preferences", "Python's TLS takes one curve; name the one, or leave the line out")
    return _CURVES[names[0]]


def _http(section: _Section) -> dict[str, str]:
    if section.boolean("http2"):
        raise section.error("http2", "HTTP/2 is not spoken here; clients use HTTP/1.1 when the line is left out")
    headers = section.section("headers", tuple(_HEADERS))
    result: dict[str, str] = {}
    for name in headers.given_keys() if headers else ():
        value = headers.text(name) if headers else None
        if not value:
            continue  # blank: not set
        allowed = _HEADERS[name]
        if headers and allowed and value not in allowed:
            raise headers.error(name, f"expected {' or '.join(allowed)}, got {value!r}")
        if headers and not (value.isascii() and value.isprintable()):
            raise headers.error(name, "expected one line of printable ASCII")
        result[name] = value
    return result


def _users(section: _Section) -> dict[bytes, bytes]:
    users: dict[bytes, bytes] = {}
    for name in section.given_keys():
        match = _BCRYPT.fullmatch(section.text(name) or "")
        if match is None:
            raise section.error(name, "expected a bcrypt hash, as `htpasswd -nBC 10 ''` prints after the colon")
        if not 4 <= int(match[1]) <= MAX_COST:  # noqa: PLR2004 - bcrypt's own lower bound
            raise section.error(name, f"its bcrypt cost is {int(match[1])}; expected 4 to {MAX_COST}")
        if not name or ":" in name:
            raise section.error(name, "a user name is not empty and holds no colon (RFC 7617)")
        users[name.encode()] = match[0].encode()
    return users


def _rate(section: _Section) -> RateLimit | None:
    text = section.text("interval") or "0"
    try:
        interval = 0.0 if text == "0" else settings.duration(text)
        burst = settings.integer(0, 1_000_000)(section.text("burst") or "0")
    except ValueError as error:
        raise section.error(None, str(error)) from None
    if not interval:
        return None
    if not burst:
        raise section.error(
            "burst" if "burst" in section.given_keys() else None, "a burst of 0 would refuse every request"
        )
    return RateLimit(interval, burst)


# --- YAML nodes: they know their lines, which loaded values do not ---


class _Section:
    """A mapping of the file. Unknown and doubled keys are refused as it is made."""

    def __init__(self, node: Node, file: str, name: str, known: Collection[str] | None) -> None:
        self._file = file
        self._name = name
        self._line = node.start_mark.line + 1
        self._nodes: dict[str, tuple[int, Node]] = {}
        if not isinstance(node, MappingNode):
            raise self.error(None, "expected `key: value` lines")
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                raise WebConfigError(f"{file}:{line}: {name or 'the file'}: expected a plain key")
            if known is not None and key.value not in known:
                raise WebConfigError(
                    f"{file}:{line}: unknown key {key.value!r}; {name or 'the file'} has {', '.join(known)}"
                )
            if key.value in self._nodes:
                raise WebConfigError(f"{file}:{line}: {key.value!r} is given twice")
            self._nodes[key.value] = (line, value)

    def given_keys(self) -> Collection[str]:
        """Return the keys given."""
        return self._nodes.keys()

    def where(self, key: str | None) -> str:
        """Return `FILE:LINE: key` for errors."""
        line = self._nodes[key][0] if key in self._nodes else self._line
        parts = ".".join(part for part in (self._name, key) if part)
        return f"{self._file}:{line}: {parts}" if parts else f"{self._file}:{line}"

    def error(self, key: str | None, message: str) -> WebConfigError:
        """Return an error at a key, or at the section."""
        return WebConfigError(f"{self.where(key)}: {message}")

    def text(self, key: str) -> str | None:
        """Return a scalar's text, None if it is absent or null."""
        node = self._node(key)
        if node is None:
            return None
        if not isinstance(node, ScalarNode):
            raise self.error(key, "expected one value")
        return str(node.value)

    def texts(self, key: str) -> tuple[str, ...] | None:
        """Return a list's texts, None if it is absent or null."""
        node = self._node(key)
        if node is None:
            return None
        if not isinstance(node, SequenceNode) or not all(
            isinstance(item, ScalarNode) and not _is_null(item) for item in node.value
        ):
            raise self.error(key, "expected a list, `- value` a line")
        return tuple(str(item.value) for item in node.value)

    def boolean(self, key: str) -> bool | None:
        """Return a truth value, None if it is absent or null."""
        text = self.text(key)
        if text is None:
            return None
        if text not in {"true", "false"}:
            raise self.error(key, f"expected true or false, got {text!r}")
        return text == "true"

    def section(self, key: str, known: Collection[str] | None) -> _Section | None:
        """Return a mapping inside, None if it is absent, null or empty."""
        node = self._node(key)
        if node is None:
            return None
        inner = _Section(node, self._file, f"{self._name}.{key}" if self._name else key, known)
        return inner if inner.given_keys() else None

    def given(self, key: str) -> str:
        """Return which of `key` (PEM text) and `key_file` is there."""
        return key if self.text(key) else f"{key}_file"

    def pem(self, key: str, folder: Path) -> Path | str | None:
        """Return PEM text, or the path of a file of it; both given is a mistake."""
        inline, file = self.text(key), self.text(f"{key}_file")
        if inline and file:
            raise self.error(f"{key}_file", f"{key} is given too; one of them")
        return inline or (folder / file if file else None)

    def _node(self, key: str) -> Node | None:
        _, node = self._nodes.get(key, (0, None))
        return None if node is None or _is_null(node) else node


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag == "tag:yaml.org,2002:null"
