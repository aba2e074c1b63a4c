"""The Deployments of kubernetes/, rendered and played by podman beside the database of the compose stack.

Debian 12's podman knows neither modes nor items of Secret volumes (and ends with a trace if `optional` is not said), so
the files that a kubelet would make of them are made here. What it does not know at all, such as policies and
autoscaling, is left to test_kubernetes.py and to a cluster.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.compose import Stack
from dev.podman import ROOT
from dev.waiting import wait_for
from tests.containers.asking import dsn, get
from tests.senders import Senders, apis_by_seq

POSTS = 200
PORTS = {"ingest-raw": 10111, "ingest-orm": 10112, "bridge": 10113}


@pytest.fixture(scope="module")
def played(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Play them with the secrets of the stack; return the address of each."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("kubernetes", "prometheus", "grafana", "kmod"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("values", "node_modules"))
    shutil.copytree(stack.folder("secrets"), tree / "kubernetes" / "secrets" / "values")
    overlay = tree / "kubernetes" / "overlays" / "local"
    rendered = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True, check=True).stdout
    objects: list[dict[str, Any]] = [each for each in yaml.safe_load_all(rendered) if each]
    chosen = [each for each in objects if each["kind"] == "Deployment" and each["metadata"]["name"] in PORTS]
    assert PORTS.keys() == {each["metadata"]["name"] for each in chosen}
    secrets = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "Secret"}
    for each in chosen:
        pod = each["spec"]["template"]["spec"]
        for volume in pod["volumes"]:
            if "secret" in volume:
                folder = tree / "kubelet" / each["metadata"]["name"] / volume["name"]
                secret = volume.pop("secret")
                as_files(secret, secrets[secret["secretName"]], folder, pod["securityContext"]["fsGroup"])
                volume["hostPath"] = {"path": str(folder), "type": "Directory"}
    file = tree / "play.yaml"
    file.write_text(yaml.safe_dump_all(chosen))
    remove(stack)
    try:
        stack.podman.run("kube", "play", f"--network={stack.prefix}", file, timeout=300)
        yield {name: address(stack, name) for name in PORTS}
    finally:
        remove(stack)


def as_files(secret: dict[str, Any], data: dict[str, str], folder: Path, group: int) -> None:
    """Write a Secret's values as a kubelet mounts them: the items that are named, their mode, the pod's group."""
    folder.mkdir(parents=True)
    for item in secret.get("items") or [{"key": key, "path": key} for key in data]:
        path = folder / item["path"]
        path.write_bytes(base64.b64decode(data[item["key"]]))
        os.chown(path, 0, group)
        path.chmod(secret["defaultMode"])


def pods(stack: Stack, name: str) -> list[str]:
    """Return the pods of a Deployment."""
    return stack.podman.run("pod", "ps", f"--filter=name={name}-pod", "--format={{.Name}}").split()


def remove(stack: Stack) -> None:
    for name in PORTS:
        for pod in pods(stack, name):
            stack.podman.run("pod", "rm", "--force", "--time=10", pod)


def address(stack: Stack, name: str) -> str:
    """Return the address of a Deployment's only pod: its infra container's."""
    (pod,) = pods(stack, name)
    infra = json.loads(stack.podman.run("pod", "inspect", pod))["InfraContainerID"]
    return str(stack.podman.inspect(infra)["NetworkSettings"]["Networks"][stack.prefix]["IPAddress"])


@pytest.mark.parametrize("api", ["raw", "orm"])
def test_the_rendered_apis_store_what_they_are_sent(stack: Stack, played: dict[str, str], api: str) -> None:
    base = f"http://{played[f'ingest-{api}']}:{PORTS[f'ingest-{api}']}"
    wait_for(lambda: get(f"{base}/-/ready")[0] == 200, f"{api} is ready", 120)
    token = (stack.folder("secrets") / "push-token").read_text()
    senders = Senders(base, POSTS, host=f"played-{api}", token=token)
    try:
        senders.wait_for(POSTS)
    finally:
        senders.end()
    assert {201} == set(senders.answers.values())
    assert dict.fromkeys(range(1, POSTS + 1), api) == apis_by_seq(dsn(stack), f"played-{api}")


def test_the_rendered_bridge_serves_its_page(played: dict[str, str]) -> None:
    base = f"http://{played['bridge']}:{PORTS['bridge']}"
    wait_for(lambda: get(f"{base}/-/ready")[0] == 200, "the bridge is ready", 120)
    status, page = get(f"{base}/")
    assert (200, True) == (status, "<script" in page)
