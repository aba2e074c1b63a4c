"""`make manifests`: write what kubernetes/ holds of other rooms' files where kustomize cannot take them as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
RULE: Final = ROOT / "kubernetes" / "components" / "prometheus-operator" / "prometheusrule.yaml"

_NUMBER: Final = re.compile(r"^( *expr: )([-0-9.e+]+)$", re.MULTILINE)
_HEAD: Final = """\
# The rules of prometheus/rules, as the Prometheus Operator takes them: `make manifests` writes this file.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: latido
  namespace: latido
spec:
  groups:
"""


def prometheus_rule(folder: Path) -> str:
    """Return the PrometheusRule of a folder's rule files: their groups, line by line, one level deeper.

    An expression that is a number is quoted: the operator takes text or whole numbers.
    """
    lines = [_HEAD]
    for path in sorted(folder.glob("*.yml")):
        _, _, groups = path.read_text(encoding="utf-8").partition("groups:\n")
        groups = _NUMBER.sub(r'\1"\2"', groups)
        lines += [f"  {line}" if line.strip() else line for line in groups.splitlines(keepends=True)]
    return "".join(lines)


if __name__ == "__main__":
    RULE.write_text(prometheus_rule(ROOT / "prometheus" / "rules"), encoding="utf-8")
