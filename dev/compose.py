"""`compose.yaml` run by podman: what the Compose Specification says of the keys that the file uses, and no other.

Debian 12's podman-compose does not know what services wait for (`service_completed_successfully`). Here a key that is
not known is an error, so nothing in the file is passed over. Ports are not published: whoever asks is on this machine,
and reaches each container by its own address.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from dev.podman import ROOT, Podman
from dev.waiting import wait_for

FILE: Final = ROOT / "compose.yaml"
LOOPBACK: Final = re.compile(r"127\.0\.0\.1:\d+:\d+")

Service = dict[str, Any]

_VARIABLE: Final = re.compile(r"\$(?:(\$)|\{(\w+):-([^}]*)\})")
_REPEATED: Final = {"tmpfs", "cap_add", "cap_drop", "security_opt"}
_SECONDS: Final = {"s": 1, "m": 60}


class ComposeError(Exception):
    """The file has something that this runner does not know, or a service did not become what others wait for."""


@dataclass
class Stack:
    """The services of compose.yaml as containers `PREFIX-SERVICE` on a network `PREFIX`."""

    podman: Podman
    services: dict[str, Service]
    prefix: str
    network: tuple[str, ...]

    def up(self, without: Sequence[str] = ()) -> None:
        """Create and start the services that no profile holds back, each after what it waits for."""
        self.podman.run("network", "create", *self.network, self.prefix)
        for name in self._ordered():
            if name not in without and "profiles" not in self.services[name]:
                self.start(name)

    def start(self, name: str) -> None:
        """Create and start one service, once those that it depends on are as it says."""
        for other, condition in self.services[name].get("depends_on", {}).items():
            self._wait(other, condition["condition"])
        self.podman.run("create", *self._arguments(name))
        self.podman.run("start", self.container(name))

    def down(self) -> None:
        """Remove the containers, their volumes and the network."""
        for name in self.podman.run("ps", "--all", "--format={{.Names}}").split():
            if name.startswith(f"{self.prefix}-"):
                self.podman.run("rm", "--force", "--volumes", "--time=5", name, check=False)
        for volume in self.podman.run("volume", "ls", "--quiet").split():
            if volume.startswith(f"{self.prefix}-"):
                self.podman.run("volume", "rm", "--force", volume, check=False)
        self.podman.run("network", "rm", "--force", self.prefix, check=False)

    def container(self, name: str) -> str:
        """Return the name of a service's container."""
        return f"{self.prefix}-{name}"

    def address(self, name: str) -> str:
        """Return the IP address that a service has now."""
        networks = self.podman.inspect(self.container(name))["NetworkSettings"]["Networks"]
        return str(networks[self.prefix]["IPAddress"])

    def state(self, name: str) -> dict[str, Any]:
        """Return podman's state of a service: Status, Pid, ExitCode, OOMKilled and more."""
        return dict(self.podman.inspect(self.container(name))["State"])

    def pid(self, name: str) -> int:
        """Return the process id of a service's first process, 0 if it does not run."""
        return int(self.state(name)["Pid"])

    def logs(self, name: str) -> str:
        """Return what a service has written, out and err."""
        done = self.podman.status("logs", self.container(name))
        return done.stdout + done.stderr

    def folder(self, volume: str) -> Path:
        """Return where a named volume of the file is on this machine."""
        return Path(self.podman.inspect(f"{self.prefix}-{volume}", "volume")["Mountpoint"])

    def healthy(self, name: str) -> bool:
        """Run a service's health check, which it must have: the command, in the container."""
        kind, *command = self.services[name]["healthcheck"]["test"]
        if kind != "CMD":
            raise ComposeError(f"{name}: a health check by {kind} is not known")
        return self.podman.status("exec", self.container(name), *command).returncode == 0

    def wait_healthy(self, name: str, seconds: float = 180) -> None:
        """Wait until a service's health check passes. Raises TimeoutError with the end of its log."""
        self._until(name, lambda: self.healthy(name), "healthy", seconds)

    def _wait(self, name: str, condition: str) -> None:
        if condition == "service_completed_successfully":
            self._until(name, lambda: self.state(name)["Status"] == "exited", "over", 300)
            if self.state(name)["ExitCode"] != 0:
                raise ComposeError(f"{name} ended with {self.state(name)['ExitCode']}:\n{self.logs(name)[-4000:]}")
        elif condition == "service_healthy":
            self.wait_healthy(name)
        else:
            raise ComposeError(f"{name}: condition {condition} not known")

    def _until(self, name: str, condition: Callable[[], bool], what: str, seconds: float) -> None:
        try:
            wait_for(condition, f"{name} is {what}", seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.logs(name)[-4000:]}") from None

    def _ordered(self) -> Iterator[str]:
        """Yield the services, each after those that it depends on."""
        done: list[str] = []

        def visit(name: str) -> None:
            for other in self.services[name].get("depends_on", {}):
                visit(other)
            if name not in done:
                done.append(name)

        for name in self.services:
            visit(name)
        yield from done

    def _arguments(self, name: str) -> list[str]:
        """Return the arguments of `podman create` for a service."""
        service = dict(self.services[name])
        # Podman splits a health check at its spaces, and its timers are systemd's: who waits asks.
        for key in ("build", "depends_on", "profiles", "healthcheck"):
            service.pop(key, None)
        for port in service.pop("ports", []):
            if not LOOPBACK.fullmatch(port):
                raise ComposeError(f"{name}: {port} would be reached from other machines")
        image, command = service.pop("image"), service.pop("command", None)
        own = service.pop("networks", {}).get("default", {}).get("ipv4_address", "")
        network = f"--network={self.prefix}:alias={name}{f',ip={own}' if own else ''}"
        arguments = [f"--name={self.container(name)}", network]
        for key, value in service.items():
            arguments += self._option(name, key, value)
        # An empty command is the entry point alone; none is the image's.
        return [*arguments, image, *(map(str, command or []))]

    def _option(self, name: str, key: str, value: Any) -> list[str]:  # noqa: ANN401 - YAML
        """Return what one key of a service is to podman."""
        if key in _REPEATED:
            return [f"--{key.replace('_', '-')}={each}" for each in value]
        simple: dict[str, Callable[[], list[str]]] = {
            "restart": lambda: [f"--restart={value}"],
            "user": lambda: [f"--user={value}"],
            "pid": lambda: [f"--pid={value}"],
            "read_only": lambda: [f"--read-only={str(value).lower()}"],
            "stop_grace_period": lambda: [f"--stop-timeout={int(value[:-1]) * _SECONDS[value[-1]]}"],
            "environment": lambda: [f"--env={variable}={text}" for variable, text in value.items()],
            "entrypoint": lambda: [f"--entrypoint={json.dumps(value)}"],
            "volumes": lambda: [f"--volume={self._mount(each)}" for each in value],
        }
        if key not in simple:
            raise ComposeError(f"{name}: {key} is not known")
        return simple[key]()

    def _mount(self, text: str) -> str:
        source, _, rest = text.partition(":")
        if source.startswith("."):
            return f"{(ROOT / source).resolve()}:{rest}"
        return text if source.startswith("/") else f"{self.prefix}-{text}"


def read(podman: Podman, prefix: str, path: Path = FILE) -> Stack:
    """Return a file as a stack, with variables of this environment in their places. Raises ComposeError."""
    document = _interpolated(yaml.safe_load(path.read_text(encoding="utf-8")))
    unknown = {key for key in document if not key.startswith("x-")} - {"name", "services", "volumes", "networks"}
    if unknown:
        raise ComposeError(f"{path}: {sorted(unknown)} not known")
    try:
        (addresses,) = document["networks"]["default"]["ipam"]["config"]
        options = (f"--subnet={addresses['subnet']}", f"--ip-range={addresses['ip_range']}")
    except (KeyError, ValueError) as error:
        raise ComposeError(f"{path}: networks other than one with subnet and ip_range are not known") from error
    return Stack(podman, document["services"], prefix, options)


def _interpolated(value: Any) -> Any:  # noqa: ANN401 - YAML
    if isinstance(value, dict):
        return {key: _interpolated(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_interpolated(each) for each in value]
    if not isinstance(value, str):
        return value
    return _VARIABLE.sub(lambda found: "$" if found[1] else os.environ.get(found[2], found[3]), value)
