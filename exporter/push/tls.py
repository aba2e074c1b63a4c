"""TLS to the ingest APIs, as `--push.ca-file`, `--push.cert-file` and `--push.key-file` say."""

from __future__ import annotations

import ssl

from exporter.settings import TlsSettings
from latido.settings import SettingsError, load_authorities, load_pair


def client_tls(given: TlsSettings) -> ssl.SSLContext:
    """Return how an API's certificate is verified, and what is shown to it. Raises SettingsError."""
    context = ssl.create_default_context() if given.ca_file is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if given.ca_file is not None:
        load_authorities(context, given.ca_file, flag="push.ca-file")
    if (given.cert_file is None) != (given.key_file is None):
        missing = "push.key-file" if given.key_file is None else "push.cert-file"
        raise SettingsError(f"--{missing} is missing: a certificate and its key go together")
    if given.cert_file is not None and given.key_file is not None:
        load_pair(context, given.cert_file, given.key_file, flags=("push.cert-file", "push.key-file"))
    return context
