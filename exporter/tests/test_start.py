"""The exporter's door: no certificate authority in memory that nobody asks."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, ssl
made = []
load = ssl.SSLContext.load_default_certs
def noted(self, purpose=ssl.Purpose.SERVER_AUTH):
    load(self, purpose)
    made.append(self.cert_store_stats()["x509"])
ssl.SSLContext.load_default_certs = noted
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = "/somewhere"
import exporter.start
print(made, os.environ.get("SSL_CERT_FILE"), os.environ["SSL_CERT_DIR"])
"""


def test_libraries_contexts_hold_no_authority_and_the_environment_is_as_before() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    # aiohttp's. Where it makes none any more as it is imported, exporter.start has nothing left to do.
    assert done.stdout == "[0] None /somewhere\n"
