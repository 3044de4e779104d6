# SPDX-License-Identifier: LGPL-2.1-or-later
"""Base images: Debian, Xen and the kernel. Slow to make (two minutes), seldom made."""

from __future__ import annotations

import concurrent.futures
import glob
import lzma
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenlab import packages, process, progress, store
from xenlab.errors import LabError
from xenlab.process import command

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FREE_MB_NEEDED = 4000
DOM0_DISK = "4G"  # sparse; a persistent dom0 has room for logs and databases
GUEST_DISK = "2G"
SCRATCH_DISK = "1G"
DOM0_MASKED = (  # units that only cost time in a machine that lives for minutes
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@hvc0.service",
    "systemd-pstore.service",
    "nginx.service",
    "xendomains.service",
)


@dataclass(frozen=True, slots=True)
class Base:
    """What the base layer offers, as files of its directory."""

    path: Path

    @property
    def xen(self) -> Path:
        """The hypervisor, not compressed: QEMU's multiboot loader wants the plain ELF."""
        return self.path / "xen"

    @property
    def kernel(self) -> Path:
        """The kernel of dom0 and of the guests."""
        return self.path / "vmlinuz"

    @property
    def modules(self) -> Path:
        """The directory with the kernel's modules."""
        return next((self.path / "dom0" / "lib" / "modules").iterdir())

    def tree(self, machine: str) -> Path:
        """The root file system of `dom0` or `guest` as a directory."""
        return self.path / machine

    def disk(self, machine: str) -> Path:
        """The root file system of `dom0` or `guest` as a disk; `scratch` is an empty one."""
        return self.path / f"{machine}.ext4"


def get() -> Base:
    """Return the base layer, built if it is not there."""
    key = store.key_of([], [store.HERE / "base.py", store.HERE / "packages.py"])
    return Base(store.build("base", key, _make, keep=1))


def _make(work: Path) -> None:
    if os.geteuid() != 0:
        raise LabError("Images can only be built by root.", "Run it with sudo, once: ./ci/lab setup")
    free_mb = shutil.disk_usage(work).free // 1_000_000
    if free_mb < FREE_MB_NEEDED:
        raise LabError(
            f"Only {free_mb} MB are free where the images go ({work.parent}).",
            f"Free at least {FREE_MB_NEEDED} MB, or set XENWARDEN_CACHE to a directory on another disk.",
        )
    sources = _sources()
    (work / "sources.list").write_text(sources)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        try:
            _fill(pool, work)
        except BaseException:
            process.stop_all()  # else the pool would wait for them
            raise
    shutil.rmtree(work / "kernel")
    make_disk(None, work / "scratch.ext4", SCRATCH_DISK)


def _fill(pool: concurrent.futures.Executor, work: Path) -> None:
    """Make all that takes long, as much as possible at the same time."""
    roots = [
        pool.submit(_root, work, "guest", packages.GUEST),
        pool.submit(_root, work, "dom0", packages.DOM0),
    ]
    _kernel_and_xen(work)
    for root in roots:
        root.result()
    for machine in ("guest", "dom0"):
        _install_modules(work / "kernel", work / machine)
    # xl's own decompression of a bzImage takes 5 s per guest under TCG.
    (work / "dom0" / "boot" / "vmlinux-guest").write_bytes(_decompressed((work / "vmlinuz").read_bytes()))
    disks = [
        pool.submit(make_disk, work / "guest", work / "guest.ext4", GUEST_DISK, "-O", "^has_journal"),
        pool.submit(make_disk, work / "dom0", work / "dom0.ext4", DOM0_DISK),
    ]
    for disk in disks:
        disk.result()


def make_disk(tree: Path | None, disk: Path, size: str, *options: str) -> None:
    """Make `disk`, a sparse ext4 file system with the content of `tree`. No mount, no loop device."""
    content: list[str | Path] = ["-d", tree] if tree else []
    command(["mkfs.ext4", "-q", "-m", "0", *options, *content, disk, size], f"Making {disk.name}")


def _sources() -> str:
    # This machine's own Debian sources: the mirror its admin chose, and nothing but Debian.
    def ask() -> list[str]:
        form = "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
        text = command(
            ["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
            "Asking apt for its sources",
        )
        return sorted({line for line in text.splitlines() if line.startswith("Debian|")})

    rows = ask()
    if not rows:
        command(["apt-get", "update"], "apt-get update", "Check the network and /etc/apt/sources.list*.")
        rows = ask()
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    lines = []
    for row in rows:
        _, uri, release, component = row.split("|")
        if release.startswith(packages.RELEASE) and "backports" not in release:
            lines.append(f"deb [signed-by={keyring}] {uri} {release} {component}")
    if not lines:
        raise LabError(
            "This machine's apt has no source of Debian 12 (bookworm).",
            "Add one to /etc/apt/sources.list, run apt-get update, then run this again.",
        )
    return "\n".join(lines) + "\n"


def _root(work: Path, machine: str, names: Sequence[str]) -> None:
    progress.say(f"installing Debian for the {machine} image ({len(names)} packages and what they need)")
    command(
        [
            "mmdebstrap",
            "--mode=root",
            "--variant=apt",
            "--include=" + ",".join(names),
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=force-unsafe-io",
            packages.RELEASE,
            work / machine,
            work / "sources.list",
        ],
        f"Installing Debian for the {machine} image",
        "Check the network and apt's sources (apt-get update must work), then run this again.",
    )
    root = work / machine
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    (root / "etc/hostname").write_text(f"{machine}\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    if machine == "dom0":
        system = root / "etc/systemd/system"
        for unit in DOM0_MASKED:
            (system / unit).unlink(missing_ok=True)
            (system / unit).symlink_to("/dev/null")
        (root / "var/log/journal").mkdir(exist_ok=True)  # the journal of a persistent dom0 survives a reboot


def _kernel_and_xen(work: Path) -> None:
    depends = command(["apt-cache", "depends", packages.KERNEL], "Asking apt for the kernel's name")
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if not found:
        raise LabError(f"apt knows no {packages.KERNEL}.", "Run apt-get update, then run this again.")
    kernel = work / "kernel"
    kernel.mkdir()
    progress.say(f"downloading {packages.XEN} and {found[1]}")
    command(
        ["apt-get", "download", "-o", "APT::Sandbox::User=root", packages.XEN, found[1]],
        "Downloading Xen and the kernel",
        "Check the network and apt's sources (apt-get update must work), then run this again.",
        cwd=kernel,
    )
    for deb in sorted(kernel.glob("*.deb")):
        command(["dpkg-deb", "-x", deb, kernel], f"Unpacking {deb.name}")
        deb.unlink()
    (xen,) = (p for p in (kernel / "boot").glob("xen-*.gz") if not p.is_symlink())
    (work / "xen").write_bytes(
        subprocess.run(["gzip", "-dc", xen], stdout=subprocess.PIPE, check=True).stdout
    )
    (vmlinuz,) = (kernel / "boot").glob("vmlinuz-*")
    shutil.copy(vmlinuz, work / "vmlinuz")


def _decompressed(bzimage: bytes) -> bytes:
    start = bzimage.find(b"\xfd7zXZ\0")
    if start < 0:
        raise LabError("The kernel's image is not compressed with xz, as Debian 12's is.")
    return lzma.LZMADecompressor().decompress(bzimage[start:])


def _install_modules(kernel: Path, root: Path) -> None:
    (source,) = (kernel / "lib/modules").iterdir()
    target = root / "lib/modules" / source.name
    for part in packages.MODULES:
        for found in glob.glob(str(source / "kernel" / part)):  # noqa: PTH207  -- a pattern in a string
            path = target / os.path.relpath(found, source)
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.isdir(found):  # noqa: PTH112
                shutil.copytree(found, path)
            else:
                shutil.copy(found, path)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(source / name, target / name)
    command(["chroot", root, "depmod", source.name], "Listing the modules")
