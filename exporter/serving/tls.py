"""TLS as `tls_server_config` asks for it: an SSLContext from files, and who a client's certificate says it is."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from exporter.serving.config import ClientAuth, TlsConfig, WebConfigError

MAX_PEM: Final = 1 << 20
"""Bytes of a PEM file: a hundred authorities fit several times."""

_VERIFY: Final = {
    ClientAuth.NONE: ssl.CERT_NONE,
    ClientAuth.IF_GIVEN: ssl.CERT_OPTIONAL,
    ClientAuth.REQUIRED: ssl.CERT_REQUIRED,
}


def make_context(config: TlsConfig) -> ssl.SSLContext:
    """Return a server's context, its files read now. Raises WebConfigError naming line, key and file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = config.min_version
    context.maximum_version = config.max_version
    context.options |= ssl.OP_NO_RENEGOTIATION
    if config.prefer_server_ciphers:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if config.ciphers:
        context.set_ciphers(":".join(config.ciphers))
    if config.curve is not None:
        context.set_ecdh_curve(config.curve)
    context.set_alpn_protocols(["http/1.1"])
    _load_chain(context, config)
    if config.client_ca is not None:
        _load_authorities(context, config.client_ca, config.where["client_ca"])
    context.verify_mode = _VERIFY[config.client_auth]
    return context


def names(certificate: Mapping[str, object]) -> frozenset[str]:
    """Return the subject alternative names of `SSLSocket.getpeercert()`: DNS, IP, e-mail and URI."""
    found: set[str] = set()
    entries = certificate.get("subjectAltName", ())
    if isinstance(entries, tuple):
        for kind, value in entries:
            if kind in {"DNS", "email", "URI"}:
                found.add(value)
            elif kind == "IP Address":
                # OpenSSL writes IPv6 without `::`; people write it with.
                found.add(str(ipaddress.ip_address(value.strip())))
    return frozenset(found)


def allowed(certificate: Mapping[str, object] | None, sans: frozenset[str] | None) -> bool:
    """Whether a verified certificate carries one of the names allowed. No certificate is the TLS policy's question."""
    return sans is None or not certificate or not names(certificate).isdisjoint(sans)


def _load_chain(context: ssl.SSLContext, config: TlsConfig) -> None:
    certificate = _pem(config.certificate, config.where["certificate"])
    key = _pem(config.key, config.where["key"])

    def refuse_password() -> NoReturn:
        # Without this OpenSSL would ask on the terminal.
        raise WebConfigError(f"{config.where['key']}: the key is encrypted; only a key without password can be used")

    try:
        with _memory_file(certificate) as certificate_path, _memory_file(key) as key_path:
            context.load_cert_chain(certificate_path, key_path, password=refuse_password)
    except ssl.SSLError as error:
        raise WebConfigError(
            f"{config.where['certificate']}: certificate and key do not form a pair: {error.reason or 'not PEM'}"
        ) from None


def _load_authorities(context: ssl.SSLContext, source: Path | str, where: str) -> None:
    try:
        context.load_verify_locations(cadata=_pem(source, where).decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError):
        raise WebConfigError(f"{where}: holds no certificate in PEM") from None


def _pem(source: Path | str, where: str) -> bytes:
    if isinstance(source, str):
        return source.encode()
    try:
        with source.open("rb") as file:
            content = file.read(MAX_PEM + 1)
    except OSError as error:
        raise WebConfigError(f"{where}: {source} cannot be read: {error.strerror}") from None
    if len(content) > MAX_PEM:
        raise WebConfigError(f"{where}: {source} is larger than {MAX_PEM} bytes")
    return content


@contextmanager
def _memory_file(content: bytes) -> Iterator[str]:
    """Give bytes a path for as long as needed: Python's ssl takes certificate and key as files only."""
    descriptor = os.memfd_create("pem")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
