"""Schemathesis against both APIs as programs with a real database: every phase and check of its, stateful ones too.

The form here is short: one feed, and the same requests each time. The long one, over every feed and drawn from a seed
(LATIDO_SCHEMATHESIS_SEED), is `LATIDO_SCHEMATHESIS_EXAMPLES=50 pytest ingest/tests/test_schemathesis.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dev.program import Program
from ingest.contract.vectors import TOKEN_ANY
from ingest.tests import schemathesis_hooks
from ingest.tests.conftest import APIS

Running = dict[tuple[str, bool], Program]

EXAMPLES = os.environ.get("LATIDO_SCHEMATHESIS_EXAMPLES", "3")
SEED = os.environ.get("LATIDO_SCHEMATHESIS_SEED", "1")  # of the long form
LONG = int(EXAMPLES) > 10
ONE_FEED = ("--include-path", "/api/ram", "--include-path", "/api/health")
DRAWN = ("--seed", SEED) if LONG else ("--generation-deterministic",)
BOUND_SECONDS = 3600


@pytest.mark.parametrize("api", APIS)
def test_an_api_does_what_its_document_says(running: Running, tmp_path: Path, api: str) -> None:
    """One API is asked with a token and the other without; the long form asks both either way."""
    for with_tokens in (False, True) if LONG else (api == "raw",):
        program = running[(api, with_tokens)]
        done = subprocess.run(
            [
                *(str(Path(sys.executable).parent / "schemathesis"), "run", f"{program.url}/openapi.json"),
                *("--checks", "all", "--max-examples", EXAMPLES, "--continue-on-failure", *DRAWN),
                # How long it takes to draw is the machine's matter.
                *("--suppress-health-check", "all"),
                *(() if LONG else ONE_FEED),
                *(("--header", f"Authorization: Bearer {TOKEN_ANY}") if with_tokens else ()),
            ],
            cwd=tmp_path,  # it keeps its own files there
            env=os.environ | {"SCHEMATHESIS_HOOKS": schemathesis_hooks.__name__, "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
            timeout=BOUND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # Each phase ran: a document without links would leave the stateful one out in silence.
        summary = done.stdout.partition("Test Phases:")[2]
        assert {"Coverage", "Fuzzing", "Stateful"} == set(re.findall(r"✅ (\w+)", summary)), done.stdout
        generated = re.search(r"(\d[\d,]*) generated", done.stdout)
        assert generated is not None, done.stdout
        assert int(generated[1].replace(",", "")) > 100
        assert program.runs()
