"""The bridge's own TLS: a certificate and its key, read again when they have changed: renewal needs no restart."""

from __future__ import annotations

import ssl
from pathlib import Path

from latido import logs
from latido.settings import SettingsError

log = logs.get(__name__)


class Certificate:
    """A TLS context over two files."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self._files = cert_file, key_file
        self._state = self._look()
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._load(self.context)

    @classmethod
    def load(cls, cert_file: Path | None, key_file: Path | None) -> Certificate | None:
        """Return the certificate that the settings name, None where they name none. Raises SettingsError."""
        if cert_file is None and key_file is None:
            return None
        if cert_file is None or key_file is None:
            raise SettingsError("--web.tls-cert-file and --web.tls-key-file belong together: one is missing")
        try:
            return cls(cert_file, key_file)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"--web.tls-cert-file: {_why(cert_file, key_file, error)}") from None

    def refresh(self) -> None:
        """Use what the files hold now for the connections to come; what cannot be used is logged once."""
        try:
            state = self._look()
            if state == self._state:
                return
            self._state = state
            self._load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))  # a bad pair must not spoil the one in use
            self._load(self.context)
        except (OSError, ssl.SSLError) as error:
            if self._state is not None:
                log.error("the certificate stays as it was", reason=_why(*self._files, error))
            self._state = None
        else:
            log.info("read the certificate again", file=str(self._files[0]))

    def _look(self) -> tuple[tuple[int, int], ...] | None:
        return tuple((status.st_mtime_ns, status.st_ino) for status in (file.stat() for file in self._files))

    def _load(self, context: ssl.SSLContext) -> None:
        # A password would be asked for at the terminal.
        context.load_cert_chain(*self._files, password=lambda: b"")


def _why(cert_file: Path, key_file: Path, error: Exception) -> str:
    return f"{cert_file} with {key_file} cannot be used: {error}"
