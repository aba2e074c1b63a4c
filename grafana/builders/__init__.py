"""Grafana's dashboards, written with grafana-foundation-sdk; `python -m grafana.builders` writes them as JSON.

`../dashboards/*.json` is what Grafana reads and what is committed; a test builds them again and compares. One file is
one dashboard; `panels.py` holds what they share of looks, `sql.py` the statements, `board.py` variables, links and
annotations.
"""
