"""The contract's own promises: small to import, one document, two sets of models that say the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from ingest.contract import openapi, wire
from ingest.contract.metrics import Metrics
from ingest.contract.problems import Problem, ProblemType
from ingest.contract.wire import Feed
from ingest.orm import schemas

HEAVY = {
    "aiohttp",
    "fastapi",
    "starlette",
    "uvicorn",
    "aiomysql",
    "pymysql",
    "sqlalchemy",
    "sqlmodel",
    "alembic",
    "pydantic",
    "latido",
    "exporter",
    "bridge_ws",
}


def test_importing_the_contract_loads_no_web_framework_and_no_database_library() -> None:
    program = (
        "import sys, pkgutil, importlib, ingest.contract as contract\n"
        "for module in pkgutil.walk_packages(contract.__path__, 'ingest.contract.'):\n"
        "    importlib.import_module(module.name)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "msgspec" in loaded
    assert loaded & HEAVY == set()


def test_the_committed_document_is_the_generated_one(repository: Path) -> None:
    committed = (repository / "ingest/contract/openapi.json").read_text(encoding="utf-8")
    assert openapi.render() == committed, "python -m ingest.contract.openapi > ingest/contract/openapi.json"


def test_every_reference_of_the_document_leads_somewhere() -> None:
    document = openapi.document()
    text = json.dumps(document)
    assert r"\\Z" not in text

    def references(value: openapi.Json) -> set[str]:
        if isinstance(value, dict):
            own = {str(value["$ref"])} if "$ref" in value else set()
            return own.union(*(references(member) for member in value.values()))
        return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()

    for reference in references(document):
        place: openapi.Json = document
        for part in reference.removeprefix("#/").split("/"):
            assert isinstance(place, dict)
            place = place[part]


@pytest.mark.parametrize(
    ("model", "struct"),
    [
        (schemas.RamPush, wire.RamPush),
        (schemas.RamSample, wire.RamSample),
        (schemas.CpuPush, wire.CpuPush),
        (schemas.CpuSample, wire.CpuSample),
        (schemas.CoreTimes, wire.CoreTimes),
        (schemas.ProcesosPush, wire.ProcesosPush),
        (schemas.ProcesosSample, wire.ProcesosSample),
        (schemas.Process, wire.Process),
    ],
)
def test_the_models_of_the_orm_have_the_fields_and_limits_of_the_contract(
    model: type[BaseModel], struct: type[msgspec.Struct]
) -> None:
    """Same names in the same order (which decides the first of two that lack), same need, same JSON schema."""
    fields = msgspec.structs.fields(struct)
    assert list(model.model_fields) == [field.name for field in fields]
    assert [info.is_required() for info in model.model_fields.values()] == [field.required for field in fields]
    theirs = model.model_json_schema(ref_template="{model}")["properties"]
    _, components = msgspec.json.schema_components([struct], ref_template="{name}")
    ours = components[struct.__name__]["properties"]
    assert {name: _bare(schema) for name, schema in theirs.items()} == {
        name: _bare(schema) for name, schema in ours.items()
    }


def _bare(schema: object) -> object:
    """Leave titles and the order of alternatives out."""
    if isinstance(schema, dict):
        bare = {name: _bare(value) for name, value in schema.items() if name not in {"title", "description"}}
        if "anyOf" in bare and isinstance(bare["anyOf"], list):
            bare["anyOf"] = sorted(bare["anyOf"], key=lambda one: json.dumps(one, sort_keys=True))
        return bare
    return [_bare(item) for item in schema] if isinstance(schema, list) else schema


def test_a_problem_can_be_raised_through_a_context_manager() -> None:
    """A context manager writes the traceback into the exception: a frozen one would turn a 422 into a 500."""
    problem = Problem(ProblemType.INVALID, "x", "/host")
    assert problem.document() == {
        "type": "urn:latido:problem:invalid",
        "title": ProblemType.INVALID.title,
        "status": 422,
        "detail": "x",
        "pointer": "/host",
    }
    problem.__traceback__ = None
    assert {problem: 1}[problem] == 1


def test_every_feed_has_its_path() -> None:
    paths = openapi.document()["paths"]
    assert isinstance(paths, dict)
    assert set(paths) == {f"/api/{feed.value}" for feed in Feed} | {"/api/health"}


def test_docs_list_every_metric_that_an_api_exposes(repository: Path) -> None:
    text = (repository / "docs/metrics.md").read_text(encoding="utf-8")
    section = text.partition("\n## Ingest APIs\n")[2].partition("\n## ")[0]
    documented = {
        (cells[1].strip(" `"), cells[2].strip(), frozenset(re.findall(r"`(\w+)`", cells[4])))
        for line in section.splitlines()
        if len(cells := line.split("|")) > 5 and cells[1].strip().startswith("`")
    }
    registry = CollectorRegistry()
    metrics = Metrics(registry, "raw", "1")
    metrics.request(Feed.RAM, 503)
    exposed = {
        (
            family.name + ("_total" if family.type == "counter" else ""),
            family.type,
            frozenset(label for sample in family.samples for label in sample.labels) - {"le"},
        )
        for family in registry.collect()
    }
    assert documented == exposed
