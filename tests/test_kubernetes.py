"""The manifests: every overlay, and every component on the base, rendered by kubectl and held to schemas and to rules.

No cluster is here: what a scheduler or an admission controller would say beyond the schemas is not tested.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
import pytest
import yaml

from dev import manifests
from ingest.schema import grants
from latido import settings
from loadtest import run as loadtest_run

ROOT: Final = Path(__file__).parent.parent
KUBERNETES: Final = ROOT / "kubernetes"
SCHEMAS: Final = yaml.safe_load((ROOT / "tests" / "schemas" / "custom-resources.yaml").read_text())
OVERLAYS: Final = sorted(path.parent.name for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))
COMPONENTS: Final = sorted(path.parent.name for path in KUBERNETES.glob("components/*/kustomization.yaml"))
RENDERED: Final = [*(f"overlays/{name}" for name in OVERLAYS), *(f"components/{name}" for name in COMPONENTS)]

PORTS: Final = {
    "exporter": 10110,
    "ingest-raw": 10111,
    "ingest-orm": 10112,
    "bridge": 10113,
    "prometheus": 9090,
    "grafana": 3000,
    "mysql": 3306,
}
"""What each program listens on (design, section 3)."""

Object = dict[str, Any]

_valid: set[tuple[str, str]] = set()

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which renders, is not installed")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what is rendered, with secrets made and an overlay for each component alone; return its `kubernetes`."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("kubernetes", "prometheus", "grafana", "kmod"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("values", "node_modules"))
    copy = folder / "kubernetes"
    subprocess.run([ROOT / "packaging" / "make-secrets", copy / "secrets" / "values"], check=True, capture_output=True)
    for name in COMPONENTS:
        write_overlay(copy, name, name)
    return copy


def write_overlay(tree: Path, overlay: str, *components: str) -> None:
    """Write an overlay `alone/OVERLAY` of the base with these components, in this order."""
    folder = tree / "alone" / overlay
    folder.mkdir(parents=True)
    paths = ", ".join(f"../../components/{name}" for name in components)
    (folder / "kustomization.yaml").write_text(
        f"resources: [../../base, ../../secrets]\ncomponents: [{paths}]\nimages: [{{name: latido, newTag: 0.1.0}}]\n"
    )


def render(tree: Path, what: str) -> list[Object]:
    """Return the objects of an overlay, or of a component on the base."""
    path = tree / what.replace("components/", "alone/")
    done = subprocess.run(["kubectl", "kustomize", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document is not None]


@pytest.fixture(scope="module", params=RENDERED)
def objects(request: pytest.FixtureRequest, tree: Path) -> list[Object]:
    """Each overlay and each component, rendered."""
    return render(tree, request.param)


def pods(objects: list[Object]) -> Iterator[tuple[str, str, Object, Object]]:
    """Yield kind, name, labels and spec of every pod that the objects make, with its namespace in the labels."""
    for each in objects:
        template = each.get("spec", {}).get("template")
        if each["kind"] == "CronJob":
            template = each["spec"]["jobTemplate"]["spec"]["template"]
        if each["kind"] in {"DaemonSet", "Deployment", "StatefulSet", "Job", "CronJob"}:
            labels = {**template["metadata"]["labels"], "namespace": each["metadata"]["namespace"]}
            yield each["kind"], each["metadata"]["name"], labels, template["spec"]


def containers(spec: Object) -> list[Object]:
    """Return all containers of a pod."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def newest_versions(count: int) -> list[str]:
    """Return the newest Kubernetes versions whose schemas are at hand, as MAJOR.MINOR."""
    major, minor, _ = kubernetes_validate.latest_version().split(".")
    return [f"{major}.{int(minor) - back}" for back in range(count)]


@pytest.mark.parametrize("version", newest_versions(3))
def test_objects_are_valid_for_the_newest_kubernetes(objects: list[Object], version: str) -> None:
    for each in objects:
        # The overlays have most objects in common: each is looked at once.
        text = json.dumps(each, sort_keys=True)
        if f"{each['apiVersion']} {each['kind']}" not in SCHEMAS and (version, text) not in _valid:
            kubernetes_validate.validate(each, version, strict=True)
            _valid.add((version, text))


def test_custom_resources_match_their_schemas(objects: list[Object]) -> None:
    for each in objects:
        schema = SCHEMAS.get(f"{each['apiVersion']} {each['kind']}")
        if schema is not None:
            jsonschema.validate(each["spec"], schema, cls=jsonschema.Draft202012Validator)


def test_a_misspelt_field_is_seen(tree: Path) -> None:
    """The validation can fail, of Kubernetes' own kinds and of custom ones."""
    rendered = {each["kind"]: each for each in render(tree, "components/gateway")}
    deployment, route = rendered["Deployment"], rendered["HTTPRoute"]
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, newest_versions(1)[0], strict=True)
    route["spec"]["rules"][0]["backendRefs"][0]["wieght"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(route["spec"], SCHEMAS["gateway.networking.k8s.io/v1 HTTPRoute"])


def test_images_are_pinned(objects: list[Object]) -> None:
    for _, name, _, spec in pods(objects):
        for container in containers(spec):
            _, _, tag = container["image"].rpartition("/")[2].partition(":")
            assert tag not in {"", "latest"}, f"{name}: {container['image']}"


def test_only_the_exporter_has_privileges(objects: list[Object]) -> None:
    for _, name, labels, spec in pods(objects):
        wanted = ["SYS_PTRACE", "DAC_READ_SEARCH", "BPF", "PERFMON"] if name == "exporter" else None
        assert ("latido-exporter" if name == "exporter" else labels["namespace"]) == labels["namespace"]
        assert (name == "exporter") is bool(spec.get("hostPID"))
        assert not spec.get("hostNetwork")
        assert not spec.get("hostIPC")
        assert {"type": "RuntimeDefault"} == spec["securityContext"]["seccompProfile"]
        assert (name != "exporter") is bool(spec["securityContext"].get("runAsNonRoot"))
        for container in containers(spec):
            context = container["securityContext"]
            assert not context.get("privileged")
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert ["ALL"] == context["capabilities"]["drop"]
            assert wanted == context["capabilities"].get("add")
        host_paths = (
            [volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume]
            if "volumes" in spec
            else []
        )
        assert (["/proc", "/sys/fs/cgroup", "/var/lib/latido"] if name == "exporter" else []) == host_paths


def test_namespaces_say_their_pod_security(objects: list[Object]) -> None:
    levels = {
        each["metadata"]["name"]: each["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for each in objects
        if each["kind"] == "Namespace"
    }
    assert "restricted" == levels.pop("latido")
    assert "privileged" == levels.pop("latido-exporter")
    assert {"latido-kmod": "privileged", "latido-stress": "restricted"}.items() >= levels.items()


def test_every_container_has_requests_limits_and_probes(objects: list[Object]) -> None:
    for kind, name, _, spec in pods(objects):
        for container in containers(spec):
            for which in ("requests", "limits"):
                assert {"cpu", "memory"} == container["resources"][which].keys(), name
            if kind not in {"Job", "CronJob"} or container.get("restartPolicy") == "Always":
                for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                    assert probe in container, f"{name}: {container['name']}: {probe}"


def test_ready_is_not_alive(objects: list[Object]) -> None:
    """A database that is away must not get its readers restarted."""
    for _, _, _, spec in pods(objects):
        for container in spec["containers"]:
            if container["name"] in {"exporter", "ingest-raw", "ingest-orm", "bridge"}:
                assert "/-/healthy" == container["livenessProbe"]["httpGet"]["path"]
                assert "/-/ready" == container["readinessProbe"]["httpGet"]["path"]


def test_every_port_is_the_programs(objects: list[Object]) -> None:
    found = {
        container["name"]: port["containerPort"]
        for _, _, _, spec in pods(objects)
        for container in spec["containers"]
        for port in container.get("ports", [])
    }
    assert {name: PORTS[name] for name in found} == found
    assert {"exporter", "ingest-raw", "ingest-orm", "bridge"} <= found.keys()
    for each in objects:
        if each["kind"] == "Service":
            assert [PORTS[each["metadata"]["name"]]] == [port["port"] for port in each["spec"]["ports"]]
    for kind, name, _, spec in pods(objects):
        for container in spec["containers"]:
            listen = {variable["name"]: variable.get("value") for variable in container.get("env", [])}
            if "LATIDO_WEB_LISTEN_ADDRESS" in listen:
                assert f"0.0.0.0:{PORTS[container['name']]}" == listen["LATIDO_WEB_LISTEN_ADDRESS"], f"{kind} {name}"


def matches(selector: Object, labels: Object) -> bool:
    """Tell whether a label selector holds for labels."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(expression["key"]) in expression["values"] for expression in selector.get("matchExpressions", [])
    )


def test_every_selector_selects_and_every_pod_has_a_policy(objects: list[Object]) -> None:
    labels = [labels for _, _, labels, _ in pods(objects)]
    namespaces = {each["metadata"]["namespace"] for each in objects if "namespace" in each["metadata"]}
    for each in objects:
        spec, here = each.get("spec", {}), each["metadata"].get("namespace")
        local = [those for those in labels if those["namespace"] == here]
        if each["kind"] == "Service":
            assert any(matches({"matchLabels": spec["selector"]}, those) for those in local), each["metadata"]
        if each["kind"] in {"PodDisruptionBudget", "Deployment", "DaemonSet", "StatefulSet"}:
            assert any(matches(spec["selector"], those) for those in local), each["metadata"]
        if each["kind"] == "HorizontalPodAutoscaler":
            names = {(other["kind"], other["metadata"]["name"]) for other in objects}
            assert (spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]) in names
    policies = [each for each in objects if each["kind"] == "NetworkPolicy"]
    for those in labels:
        applied = [
            policy
            for policy in policies
            if policy["metadata"]["namespace"] == those["namespace"] and matches(policy["spec"]["podSelector"], those)
        ]
        kinds = {kind for policy in applied for kind in policy["spec"]["policyTypes"]}
        assert {"Ingress", "Egress"} == kinds, those
    denied = {policy["metadata"]["namespace"] for policy in policies if policy["spec"]["podSelector"] == {}}
    assert {"latido", "latido-exporter"} <= denied <= namespaces


def rules(objects: list[Object], labels: Object, direction: str) -> Iterator[Object]:
    """Yield what the policies of a pod let in (`ingress`) or out (`egress`)."""
    for each in objects:
        if (
            each["kind"] == "NetworkPolicy"
            and each["metadata"]["namespace"] == labels["namespace"]
            and matches(each["spec"]["podSelector"], labels)
        ):
            yield from each["spec"].get(direction, [])


def lets(rule: Object, peers: list[Object], home: str, other: Object, port: int) -> bool:
    """Tell whether a rule of a pod in the namespace `home` is for another pod and a TCP port; no peers are all."""
    named = {"kubernetes.io/metadata.name": other["namespace"]}
    at_home = {"matchLabels": {"kubernetes.io/metadata.name": home}}
    return any(each["protocol"] == "TCP" and each["port"] == port for each in rule["ports"]) and any(
        matches(peer.get("namespaceSelector", at_home), named) and matches(peer.get("podSelector", {}), other)
        for peer in peers
    )


def allowed(objects: list[Object], labels: Object) -> set[tuple[str, int]]:
    """Return which pods, by name, a pod may connect to at which port: by its own policies and by theirs."""
    here = labels["namespace"]
    anyone: list[Object] = [{"namespaceSelector": {}}]
    return {
        (name, port)
        for _, name, other, _ in pods(objects)
        for port in PORTS.values()
        if any(lets(rule, rule.get("to", anyone), here, other, port) for rule in rules(objects, labels, "egress"))
        and any(
            lets(rule, rule.get("from", anyone), other["namespace"], labels, port)
            for rule in rules(objects, other, "ingress")
        )
    }


def test_the_load_test_reaches_what_it_loads_and_no_more(tree: Path) -> None:
    """By both ends' policies; names are the one thing else that it may ask for."""
    objects = render(tree, "components/loadtest")
    by_name = {name: labels for _, name, labels, _ in pods(objects)}
    expected = {(name, PORTS[name]) for name in ("ingest-raw", "ingest-orm", "mysql")}
    assert expected == allowed(objects, by_name["loadtest"])
    for rule in rules(objects, by_name["loadtest"], "egress"):
        peers = {tuple(sorted(peer)) for peer in rule["to"]}
        assert peers == (
            {("namespaceSelector",)} if {53} == {each["port"] for each in rule["ports"]} else {("podSelector",)}
        )
    assert [] == list(rules(objects, by_name["loadtest"], "ingress"))
    # What was allowed without it is as it was, and what is read here can tell the difference.
    before = render(tree, "overlays/local")
    assert allowed(before, by_name["exporter"]) == allowed(objects, by_name["exporter"])
    assert set() == allowed(before, by_name["loadtest"])
    assert {name for name in by_name if allowed(objects, by_name[name])} > {"loadtest", "exporter", "bridge"}


def test_the_load_test_is_bounded_and_its_verdict_final(tree: Path) -> None:
    (job,) = [
        each["spec"]
        for each in render(tree, "components/loadtest")
        if each["metadata"]["name"] == "loadtest" and each["kind"] == "Job"
    ]
    (container,) = job["template"]["spec"]["containers"]
    flags = dict(word.removeprefix("--").split("=") for word in container["args"] if word.startswith("--"))
    assert ("2", "both") == (flags["workers"], flags["api"])
    longest = settings.positive_duration(flags["duration"]) + loadtest_run.GRACE_SECONDS
    assert longest < job["activeDeadlineSeconds"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert ("FailJob", "NotIn", [2]) == (rule["action"], rule["onExitCodes"]["operator"], rule["onExitCodes"]["values"])
    assert container["name"] == rule["onExitCodes"]["containerName"]
    environ = {variable["name"]: variable["value"] for variable in container["env"]}
    user = settings.dsn(environ["LATIDO_DB_DSN"]).user.removeprefix("latido_")
    assert {"SELECT"} == set(grants.PROGRAMS[user].values())


def test_the_load_test_counts_in_cloud_sql(tree: Path) -> None:
    """Listed before `cloudsql`, its Job gets the proxy that the others have, and a way out to it."""
    write_overlay(tree, "loadtest-cloudsql", "loadtest", "cloudsql")
    objects = render(tree, "alone/loadtest-cloudsql")
    found = {name: spec for kind, name, _, spec in pods(objects) if kind == "Job"}
    assert found["schema-upgrade"]["hostAliases"] == found["loadtest"]["hostAliases"]
    assert "cloud-sql-proxy" in {container["name"] for container in found["loadtest"]["initContainers"]}
    egress = {
        each["metadata"]["name"]: each["spec"]["egress"][-1]
        for each in objects
        if each["kind"] == "NetworkPolicy" and each["spec"].get("egress")
    }
    assert egress["schema"] == egress["loadtest"]
    for each in objects:
        if each["metadata"]["name"] == "loadtest":
            kubernetes_validate.validate(each, newest_versions(1)[0], strict=True)


def test_every_secret_config_map_and_account_exists(objects: list[Object]) -> None:
    there = {
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]): set(each.get("data", {}))
        for each in objects
    }
    for _, name, labels, spec in pods(objects):
        space = labels["namespace"]
        assert ("ServiceAccount", space, spec["serviceAccountName"]) in there
        for volume in spec.get("volumes", []):
            if "secret" in volume:
                keys = there["Secret", space, volume["secret"]["secretName"]]
                assert {item["key"] for item in volume["secret"].get("items", [])} <= keys, name
            if "configMap" in volume:
                assert ("ConfigMap", space, volume["configMap"]["name"]) in there, name
        for container in containers(spec):
            for variable in container.get("env", []):
                source = variable.get("valueFrom", {})
                for reference, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                    if reference in source:
                        assert source[reference]["key"] in there[kind, space, source[reference]["name"]]


@functools.cache
def help_of(words: tuple[str, ...]) -> str:
    """Return what a command's --help prints, in lines that argparse does not break."""
    command = [str(Path(sys.executable).with_name("latido")), *words, "--help"]
    environ = {**os.environ, "COLUMNS": "1000"}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environ
    )
    return done.stdout


def test_every_setting_is_one_that_the_program_knows(objects: list[Object]) -> None:
    """A variable that no program reads is a setting that does nothing."""
    for _, _, _, spec in pods(objects):
        for container in spec["containers"]:
            if not container["image"].rpartition("/")[2].startswith(("latido:", "latido-loadtest:")):
                continue
            words = tuple(word for word in container["args"] if not word.startswith("-"))
            known = set(re.findall(r"[-A-Za-z_.]+", help_of(words)))
            assert {variable["name"] for variable in container["env"]} <= known
            assert {word.partition("=")[0] for word in container["args"]} <= {*words, *known}


def test_config_maps_are_the_repositorys_files(objects: list[Object]) -> None:
    """Dashboards, rules and scripts are not written a second time."""
    texts = {
        path.read_text()
        for folder in ("kubernetes", "prometheus", "grafana")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
        and path.suffix in {".json", ".yml", ".yaml", ".cnf", ".sh", ""}
        and "values" not in path.parts
    }
    for each in objects:
        if each["kind"] == "ConfigMap" and not each["metadata"]["name"].startswith("cloudsql"):
            for name, text in each.get("data", {}).items():
                assert text in texts, f"{each['metadata']['name']}: {name}"
            # What kubectl apply writes into an annotation has a limit of 262,144 bytes.
            assert sum(map(len, each.get("data", {}).values())) < 200_000


def test_the_split_is_one_line(tree: Path) -> None:
    """90/10 is the weight of one of the two."""
    before = render(tree, "components/gateway")
    route = tree / "components" / "gateway" / "httproute.yaml"
    lines = route.read_text().splitlines()
    (position,) = [number for number, line in enumerate(lines) if "ingest-raw" in line]
    changed = [*lines]
    changed[position] = lines[position].replace("weight: 1", "weight: 9")
    route.write_text("\n".join(changed) + "\n")
    after = render(tree, "components/gateway")
    route.write_text("\n".join(lines) + "\n")

    def weights(objects: list[Object]) -> list[int]:
        (found,) = [each for each in objects if each["kind"] == "HTTPRoute"]
        return [backend["weight"] for backend in found["spec"]["rules"][0]["backendRefs"]]

    assert ([1, 1], [9, 1]) == (weights(before), weights(after))


def test_the_operators_rules_are_the_repositorys(tree: Path) -> None:
    (rule,) = [each for each in render(tree, "components/prometheus-operator") if each["kind"] == "PrometheusRule"]
    expected = [
        {**group, "rules": [{**rule, "expr": str(rule["expr"])} for rule in group["rules"]]}
        for path in sorted((ROOT / "prometheus" / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    assert expected == rule["spec"]["groups"]
    assert manifests.prometheus_rule(ROOT / "prometheus" / "rules") == manifests.RULE.read_text(encoding="utf-8")


def test_the_clusters_prometheus_reads_every_rule(tree: Path) -> None:
    (rules,) = [
        each
        for each in render(tree, "overlays/local")
        if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith("prometheus-rules")
    ]
    assert {path.name for path in (ROOT / "prometheus" / "rules").glob("*.yml")} == rules["data"].keys()


def test_cloud_runs_bridge_is_the_clusters(tree: Path) -> None:
    """The manifest for Cloud Run: valid, of known settings, and in what matters as the Deployment is."""
    service = yaml.safe_load((KUBERNETES / "components" / "cloudrun" / "service.yaml").read_text())
    schema = SCHEMAS[f"{service['apiVersion']} {service['kind']}"]
    jsonschema.validate(service["spec"], schema, cls=jsonschema.Draft202012Validator)
    (run,) = service["spec"]["template"]["spec"]["containers"]
    assert {variable["name"] for variable in run["env"]} <= set(re.findall(r"[A-Z_]+", help_of(tuple(run["args"]))))
    (cluster,) = next(spec for _, name, _, spec in pods(render(tree, "overlays/production")) if name == "bridge")[
        "containers"
    ]
    assert cluster["image"].rpartition(":")[2] == run["image"].rpartition(":")[2]
    assert cluster["args"] == run["args"]
    assert cluster["resources"]["limits"]["memory"] == run["resources"]["limits"]["memory"]
    assert [PORTS["bridge"]] == [port["containerPort"] for port in run["ports"]]
    for probe in ("startupProbe", "livenessProbe"):
        assert {"path": cluster[probe]["httpGet"]["path"], "port": PORTS["bridge"]} == run[probe]["httpGet"]
    kept = {volume["name"]: volume["secret"] for volume in service["spec"]["template"]["spec"]["volumes"]}
    files = {f"{mount['mountPath']}/{kept[mount['name']]['items'][0]['path']}" for mount in run["volumeMounts"]}
    assert {variable["value"] for variable in run["env"] if variable["name"].endswith("_FILE")} == files


def test_the_operator_builds_the_modules_of_this_version(tree: Path) -> None:
    """The Module, its dockerfile and the exporters' nodes name one another, and the three modules that kmod/ makes."""
    objects = render(tree, "components/kmod")
    (module,) = [each for each in objects if each["kind"] == "Module"]
    place, container = module["metadata"]["namespace"], module["spec"]["moduleLoader"]["container"]
    modprobe, (mapping,) = container["modprobe"], container["kernelMappings"]
    made = re.findall(r"(\w+)\.o", next(line for line in _kbuild() if line.startswith("obj-m")))
    assert sorted(made) == sorted(modprobe["modulesLoadingOrder"])
    assert modprobe["moduleName"] == modprobe["modulesLoadingOrder"][0]
    (image,) = {
        container["image"] for _, name, _, spec in pods(objects) for container in containers(spec) if name == "bridge"
    }
    version = image.rpartition(":")[2]
    arguments = {each["name"]: each["value"] for each in mapping["build"]["buildArgs"]}
    assert f":{version}-" in mapping["containerImage"]
    assert arguments["LATIDO"].endswith(f"/latido:{version}")
    (dockerfile,) = [
        each["data"]["dockerfile"]
        for each in objects
        if each["kind"] == "ConfigMap"
        and each["metadata"]["namespace"] == place
        and each["metadata"]["name"] == mapping["build"]["dockerfileConfigMap"]["name"]
    ]
    assert {*arguments, "KERNEL_FULL_VERSION"} <= set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    (selector,) = [spec["nodeSelector"] for _, name, _, spec in pods(objects) if name == "exporter"]
    assert "" == selector[f"kmm.node.kubernetes.io/{place}.{module['metadata']['name']}.ready"]


def _kbuild() -> list[str]:
    return (ROOT / "kmod" / "Kbuild").read_text().splitlines()


def test_the_live_page_has_one_name_and_the_certificate_for_it(tree: Path) -> None:
    """The Certificate, both listeners, both routes and the origin that the bridge lets in are of the same name."""
    objects = render(tree, "components/cert-manager")
    found = {(each["kind"], each["metadata"]["name"]): each["spec"] for each in objects if "spec" in each}
    certificate, gateway = found["Certificate", "live"], found["Gateway", "live"]
    (name,) = certificate["dnsNames"]
    assert [name, name] == [listener["hostname"] for listener in gateway["listeners"]]
    (secure,) = [listener for listener in gateway["listeners"] if listener["protocol"] == "HTTPS"]
    assert [certificate["secretName"]] == [each["name"] for each in secure["tls"]["certificateRefs"]]
    assert ("Issuer", certificate["issuerRef"]["name"]) in found
    sections = {}
    for route in ("live", "live-to-https"):
        spec = found["HTTPRoute", route]
        assert [name] == spec["hostnames"]
        (parent,) = spec["parentRefs"]
        sections[route] = parent["sectionName"]
    assert {"live": secure["name"], "live-to-https": "http"} == sections
    (bridge,) = [
        container for _, _, _, spec in pods(objects) for container in containers(spec) if container["name"] == "bridge"
    ]
    environ = {variable["name"]: variable.get("value") for variable in bridge["env"]}
    assert f"https://{name}" == environ["LATIDO_WEB_ORIGINS"]
    assert "LATIDO_AUTH_TOKEN_FILE" in environ
