"""What the Kernel Module Management operator would build, for a kernel of Debian 12: components/kmod's dockerfile."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from dev.podman import BASE, IMAGE, ROOT, Podman

DOCKERFILE = ROOT / "kubernetes" / "components" / "kmod" / "dockerfile"
TAG = "localhost/latido-kmod:test"


def kernel(podman: Podman) -> str:
    """Return the version of the kernel whose headers the base image's own package lists have as the newest."""
    script = "apt-get update -qq >/dev/null && apt-cache depends linux-headers-amd64"
    shown = podman.run("run", "--rm", "--network=host", BASE, "sh", "-c", script)
    (name,) = [line.split()[-1] for line in shown.splitlines() if "Depends: linux-headers-" in line]
    return name.removeprefix("linux-headers-")


def test_it_holds_the_three_modules_where_the_operator_looks(podman: Podman, tmp_path: Path) -> None:
    version = kernel(podman)
    shutil.copy(DOCKERFILE, tmp_path / "Dockerfile")
    arguments = {"LATIDO": IMAGE, "BASE": BASE, "KERNEL_FULL_VERSION": version}
    podman.build(TAG, tmp_path, arguments=arguments)
    folder = f"/opt/lib/modules/{version}"
    listed = podman.run(
        "run", "--rm", "--network=none", TAG, "sh", "-c", f"cd {folder} && echo extra/* && cat modules.dep"
    )
    made = [f"extra/latido_{name}.ko" for name in ("cpu", "procesos", "ram")]
    assert " ".join(made) == listed.splitlines()[0]
    assert made == sorted(line.partition(":")[0] for line in listed.splitlines()[1:])
    copied = tmp_path / "modules"
    container = podman.run("create", TAG, "true")
    podman.run("cp", f"{container}:{folder}/extra", copied)
    podman.run("rm", container)
    for path in sorted(copied.rglob("*.ko")):
        said = subprocess.run(["modinfo", "-F", "vermagic", path], capture_output=True, text=True, check=True).stdout
        assert version == said.split()[0]
