"""Podman with storage, networks and settings of its own under `.run/containers`, and images made where no registry is.

Debian's podman, run as root. The base image is a stand-in made by debootstrap from this machine's Debian mirror, under
the name that the Dockerfile has for the real one: what is shown of the image is shown on another base.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent
FOLDER: Final = (ROOT / ".run" / "containers").resolve()  # podman remembers it, and wants it to be the same
STAND_INS: Final = ROOT / "tests" / "containers" / "standins"
IMAGE: Final = "localhost/latido:0.1.0"
LOADTEST_IMAGE: Final = "localhost/latido-loadtest:0.1.0"
BASE: Final = "docker.io/library/python:3.11-slim-bookworm"
BASE_PACKAGES: Final = "python3,python3-venv,ca-certificates"
NEEDED: Final = (
    "podman",
    "debootstrap",
    "runc",
    "iptables",
    "/usr/lib/podman/netavark",
    "/usr/lib/podman/aardvark-dns",
)
SETTINGS: Final = """\
[containers]
# Podman's own are a million: where that is more than this machine's, no container starts.
default_ulimits = ["nofile={files}", "nproc={processes}"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
"""
ENOUGH: Final = 16384
"""Open files and processes that a container may have."""
AUTHORITIES: Final = Path("/etc/ssl/certs")
"""What this machine trusts: a build that fetches packages trusts the same, whatever its base holds."""


class PodmanError(Exception):
    """A podman command failed; the message has it and the end of what it said."""


def why_not() -> str | None:
    """Return what keeps containers from being run here, or None."""
    if os.geteuid() != 0:
        return "containers are run by root here"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name, path=path) is None]
    return f"{', '.join(missing)} missing: `dev/setup.sh containers` installs what is" if missing else None


@dataclass(frozen=True)
class Podman:
    """One storage of images, containers and networks."""

    folder: Path = FOLDER

    def run(self, *arguments: str | Path, check: bool = True, timeout: float = 120) -> str:
        """Run a podman command and return what it prints. Raises PodmanError if it fails and `check` is set."""
        done = self.status(*arguments, timeout=timeout)
        if check and done.returncode:
            words = " ".join(map(str, arguments))
            raise PodmanError(f"podman {words}: status {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
        return done.stdout.strip()

    def status(self, *arguments: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a podman command and return all that is known of its end."""
        settings = self.folder / "containers.conf"
        if not settings.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            limits = {"files": resource.RLIMIT_NOFILE, "processes": resource.RLIMIT_NPROC}
            hard = {name: resource.getrlimit(which)[1] for name, which in limits.items()}
            ours = {
                name: ENOUGH if value == resource.RLIM_INFINITY else min(ENOUGH, value) for name, value in hard.items()
            }
            settings.write_text(
                SETTINGS.format(**{name: f"{value}:{value}" for name, value in ours.items()}), encoding="utf-8"
            )
        own = ("--root", self.folder / "storage", "--runroot", self.folder / "run")
        networks = ("--network-config-dir", self.folder / "networks")
        return subprocess.run(
            ["podman", *own, *networks, *arguments],
            cwd=self.folder,  # what watches a container leaves a file `oom` where it was started
            env={**os.environ, "CONTAINERS_CONF": str(settings)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def inspect(self, what: str, kind: str = "container") -> dict[str, Any]:
        """Return what podman knows of a container, image or volume."""
        (found,) = json.loads(self.run("inspect", "--type", kind, what))
        return dict(found)

    def has(self, image: str) -> bool:
        """Whether an image is there."""
        return self.status("image", "exists", image).returncode == 0

    def make_base(self) -> None:
        """Make the stand-in for the Dockerfile's base, if it is not there (a minute or two)."""
        if self.has(BASE):
            return
        archive = self.folder / "base.tar"
        if not archive.exists():
            tree = self.folder / "base"
            shutil.rmtree(tree, ignore_errors=True)
            command: list[str | Path] = [
                "debootstrap",
                "--variant=minbase",
                f"--include={BASE_PACKAGES}",
                "bookworm",
                tree,
                _mirror(),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise PodmanError(f"debootstrap: {done.stdout[-2000:]}{done.stderr[-2000:]}")
            partial = archive.with_suffix(".part")
            subprocess.run(["tar", "-C", tree, "-cf", partial, "."], check=True)
            partial.rename(archive)
            shutil.rmtree(tree)
        self.run("import", archive, BASE, timeout=600)

    def build(self, tag: str, context: Path, *, target: str = "", arguments: Mapping[str, str] | None = None) -> None:
        """Build an image of a folder, with this machine's authorities mounted for what the build fetches."""
        pip = self.folder / "pip.conf"
        pip.write_text(f"[global]\ncert = {AUTHORITIES}/ca-certificates.crt\n", encoding="utf-8")
        mounts = ("--volume", f"{AUTHORITIES}:{AUTHORITIES}:ro", "--volume", f"{pip}:/etc/pip.conf:ro")
        chosen = [f"--build-arg={name}={value}" for name, value in (arguments or {}).items()]
        if target:
            chosen.append(f"--target={target}")
        self.run("build", "--network=host", "--tag", tag, *mounts, *chosen, context, timeout=3600)

    def build_latido(self) -> None:
        """Build Latido's two images from this checkout; unchanged parts come from podman's cache."""
        self.make_base()
        self.build(IMAGE, ROOT)
        self.build(LOADTEST_IMAGE, ROOT, target="loadtest")

    def build_stand_ins(self) -> None:
        """Build what stands in for the images of compose.yaml that are not Latido's, under their names."""
        self.make_base()
        for target, image in STAND_IN_IMAGES.items():
            if not self.has(image):
                self.build(image, STAND_INS, target=target)


STAND_IN_IMAGES: Final = {
    "mysql": "docker.io/library/mysql:8.4.6",
    "nginx": "docker.io/library/nginx:1.29.2",
    "prometheus": "docker.io/prom/prometheus:v3.5.0",
    "stress": "docker.io/polinux/stress:1.0.4",
}
"""Debian's MariaDB, nginx, Prometheus and stress, by the image that each is there for. Grafana has none in Debian."""


def _mirror() -> str:
    """Return the mirror that this machine's apt has for Debian 12. Raises PodmanError if it has none."""
    command = ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"]
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        site, _, release = line.partition(" ")
        if release == "bookworm":
            return site
    raise PodmanError("apt has no mirror of Debian 12 (bookworm) here")
