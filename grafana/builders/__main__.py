"""Write `grafana/dashboards/*.json`, or with --check say which of them are not what the builders make."""

from __future__ import annotations

import argparse
import sys

from grafana.builders.all import DASHBOARDS, OUTPUT, text


def main() -> int:
    """Write or check; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m grafana.builders", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    given = parser.parse_args()
    differs = False
    for name, build in DASHBOARDS.items():
        path = OUTPUT / f"{name}.json"
        produced = text(build())
        if path.exists() and path.read_text(encoding="utf-8") == produced:
            continue
        differs = True
        if not given.check:
            path.write_text(produced, encoding="utf-8")
        sys.stdout.write(f"{path}: {'differs' if given.check else 'written'}\n")
    return 1 if given.check and differs else 0


if __name__ == "__main__":
    sys.exit(main())
