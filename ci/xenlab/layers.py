# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cheap layers above the base: the product as its wheels install it, and the lab's own initrds."""

from __future__ import annotations

import gzip
import importlib.metadata
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xenlab import base, packages, progress, store
from xenlab.errors import LabError
from xenlab.process import command

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOTS = ("xenstore", "domU", "dom0")  # source roots, in the order in which one needs the other
INSTALLED = {"dom0": ("xenwarden-host", "xenwarden-guest"), "guest": ("xenwarden-guest",)}
SKIPPED = ("build", "dist", "__pycache__", "*.egg-info", "*.so", "*.pyc", "_xenlight.c", ".*")
PRODUCT_DISK = "256M"
SETUPTOOLS_NEEDED = 77  # build-system.requires of the three roots


@dataclass(frozen=True, slots=True)
class Images:
    """All layers of one lab."""

    base: base.Base
    product: Path
    boot: Path

    @property
    def key(self) -> str:
        """A key of all that went in."""
        return store.key_of([self.base.path.name, self.product.name, self.boot.name])


def get() -> Images:
    """Return the layers, each built if it is not there."""
    bottom = base.get()
    return Images(bottom, _product(bottom), _boot(bottom))


# --- the product -------------------------------------------------------------------------------------


def _product(bottom: base.Base) -> Path:
    ignore = shutil.ignore_patterns(*SKIPPED)
    files = _files(ROOTS)
    parts = [bottom.path.name, [str(f.relative_to(store.REPO)) for f in sorted(files)]]
    key = store.key_of(parts, [*files, store.HERE / "layers.py"])

    def make(work: Path) -> None:
        progress.say("building the product's wheels and installing them with pip in both images")
        (work / "wheels").mkdir()
        (work / "source").mkdir()
        for name in ROOTS:
            shutil.copytree(store.REPO / name, work / "source" / name, ignore=ignore)
            _wheel(work / "source" / name, work / "wheels")
        for machine, names in INSTALLED.items():
            _install(bottom, work, machine, names)
        shutil.rmtree(work / "source")

    return store.build("product", key, make)


def _files(folders: Sequence[str]) -> list[Path]:
    """Return all source files below these folders of the repository."""
    ignore = shutil.ignore_patterns(*SKIPPED)
    files = []
    for name in folders:
        for directory, directories, names in os.walk(store.REPO / name):
            left_out = ignore(directory, directories + names)
            directories[:] = [d for d in directories if d not in left_out]
            files += [Path(directory) / n for n in names if n not in left_out]
    return sorted(files)


def debs() -> Path:
    """Return the directory with the product's Debian packages, built where they are not there."""
    files = _files((*ROOTS, "ci/packaging"))
    key = store.key_of([str(f.relative_to(store.REPO)) for f in sorted(files)], files)

    def make(work: Path) -> None:
        progress.say("building the Debian packages")
        command([store.REPO / "ci" / "package", "-o", work], "Building the Debian packages")

    return store.build("debs", key, make)


def _wheel(source: Path, target: Path) -> None:
    # With a setuptools that is new enough at hand no network is needed; else pip fetches one.
    installed = int(importlib.metadata.version("setuptools").split(".")[0])
    isolation = ["--no-build-isolation"] if installed >= SETUPTOOLS_NEEDED else []
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", *isolation]
    command(
        [*pip, "-w", target, source],
        f"Building the wheel of {source.name}/",
        "The message above is pip's; `pip wheel` in that folder shows the same.",
    )


def _install(bottom: base.Base, work: Path, machine: str, names: Sequence[str]) -> None:
    root = work / machine
    # Hard links: pip only adds files, so the base tree stays as it is, and no byte is copied.
    command(["cp", "-al", bottom.tree(machine), root], f"Copying the {machine} image")
    shutil.copytree(work / "wheels", root / "tmp" / "wheels")
    pip = ["pip", "install", "-q", "--break-system-packages", "--root-user-action=ignore", "--no-index"]
    command(
        ["chroot", root, *pip, "--find-links=/tmp/wheels", *names],
        f"Installing {' and '.join(names)} in the {machine} image",
    )
    base.make_disk(root / "usr" / "local", work / f"{machine}.ext4", PRODUCT_DISK)
    shutil.rmtree(root)


# --- the initrds ------------------------------------------------------------------------------------


def _boot(bottom: base.Base) -> Path:
    inside = [p for p in (store.HERE / "inside").iterdir() if p.is_file()]
    busybox = shutil.which("busybox")
    if not busybox:
        raise LabError("There is no busybox on this machine.", "Run ./ci/setup --lab.")

    def make(work: Path) -> None:
        _initrd(bottom, work, "guest", packages.INITRD_GUEST, inside, Path(busybox))
        _initrd(
            bottom, work, "dom0", packages.INITRD_DOM0, [*inside, work / "initrd-guest.gz"], Path(busybox)
        )

    return store.build("boot", store.key_of([bottom.path.name], [*inside, store.HERE / "layers.py"]), make)


def _initrd(
    bottom: base.Base, work: Path, machine: str, modules: Sequence[str], files: Sequence[Path], busybox: Path
) -> None:
    tree = work / machine
    for name in ("bin", "mods", "lab", "proc", "sys", "dev", "newroot"):
        (tree / name).mkdir(parents=True)
    shutil.copy(busybox, tree / "bin" / "busybox")
    for module in modules:
        (found,) = bottom.modules.rglob(f"{module}.ko")
        shutil.copy(found, tree / "mods")
    (tree / "mods" / "order").write_text("".join(f"{m}\n" for m in modules))
    for file in files:
        if file.name == f"initrd-{machine}":
            shutil.copy(file, tree / "init")
        elif not file.name.startswith("initrd-") or file.suffix == ".gz":
            shutil.copy(file, tree / "lab")
    listing = "".join(f"{p.relative_to(tree)}\n" for p in sorted(tree.rglob("*")))
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        cwd=tree,
        input=listing.encode(),
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    (work / f"initrd-{machine}.gz").write_bytes(gzip.compress(archive, 6))
    shutil.rmtree(tree)
