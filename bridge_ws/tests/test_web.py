"""The built page is that of its sources: by the seal everywhere, and by building it again where Node is."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from dev import page


def test_the_seal_names_every_source_and_every_built_file() -> None:
    """Whoever changed one: `make page`, and commit both."""
    assert json.loads(page.SEAL.read_text(encoding="utf-8")) == page.hashes()


def test_a_changed_source_breaks_the_seal(tmp_path: Path) -> None:
    web = _copy(tmp_path)
    before = page.hashes(web)
    assert page.hashes() == before
    (web / "src" / "model" / "new.ts").write_text("export {};\n", encoding="utf-8")
    assert page.hashes(web)["sources"] != before["sources"]
    assert page.hashes(web)["built"] == before["built"]


def test_the_lock_holds_hashes_and_no_address() -> None:
    lock = json.loads((page.WEB / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: each for name, each in lock["packages"].items() if name}
    assert [] == [name for name, each in packages.items() if "resolved" in each]
    assert [] == [name for name, each in packages.items() if not each["integrity"].startswith("sha512-")]


def test_building_again_gives_the_same_bytes(tmp_path: Path) -> None:
    if (needed := page.missing()) is not None:
        pytest.skip(f"building needs {needed}; the seal has been compared")
    if subprocess.run(["npm", "ping"], cwd=tmp_path, capture_output=True, timeout=120, check=False).returncode != 0:
        pytest.skip("npm reaches no registry; the seal has been compared")
    web = _copy(tmp_path)
    shutil.rmtree(web / "dist")
    page.build(web)
    assert json.loads(page.SEAL.read_text(encoding="utf-8")) == page.hashes(web)


def _copy(folder: Path) -> Path:
    return Path(shutil.copytree(page.WEB, folder / "web", ignore=shutil.ignore_patterns("node_modules")))
