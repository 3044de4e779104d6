# SPDX-License-Identifier: LGPL-2.1-or-later
"""One QEMU process: its command line, its disks, its end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from xenlab import store
from xenlab.errors import LabError
from xenlab.process import command, die_with_parent
from xenlab.qmp import Qmp

if TYPE_CHECKING:
    from xenlab.layers import Images

XEN_MB = 256  # what Xen itself and its heap need beside dom0 and the guests
ACCELERATORS = {
    # npt gives HAP, so that PVH guests work; "max" crashes dom0 at start (SMAP).
    "tcg": ("-accel", "tcg,thread=multi", "-cpu", "qemu64,+svm,+npt"),
    "kvm": ("-accel", "kvm", "-cpu", "host"),
}


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the machine is made of; part of a snapshot's key."""

    accel: str
    cpus: int
    memory_mb: int
    scratch_disks: int
    xen_arguments: str
    dom0_arguments: str
    mac: str | None = None  # of the network card on the wire to another machine

    def arguments(self) -> list[str]:
        """Return QEMU's arguments, disks and channels left out; files are named relative to the run."""
        return [
            *("qemu-system-x86_64", "-nodefaults", *ACCELERATORS[self.accel]),
            *("-m", f"{self.memory_mb}M", "-smp", str(self.cpus), "-display", "none", "-no-reboot"),
            *("-kernel", "xen", "-append", self.xen_arguments),
            # QEMU splits the multiboot modules at commas and takes arguments after a blank: dom0's kernel
            # and its initrd. Plain names, because the path of a clone may hold either.
            *("-initrd", f"vmlinuz {self.dom0_arguments},initrd-dom0.gz"),
            *self._wire(),
        ]

    def _wire(self) -> list[str]:
        # Datagrams between two sockets: either end may come, go and be resumed at any time. `peer` is the
        # other machine's run.
        if self.mac is None:
            return []
        ends = "local.type=unix,local.path=wire,remote.type=unix,remote.path=peer/wire"
        card = f"virtio-net-pci,netdev=wire,mac={self.mac},romfile="
        return ["-netdev", f"dgram,id=wire,{ends}", "-device", card]


class Run:
    """A directory for one running machine: overlays, sockets, console. Gone when closed."""

    def __init__(self) -> None:
        runs = store.cache_dir() / "runs"
        runs.mkdir(exist_ok=True)
        with store.locked("runs"):
            sweep(runs)
            self.path = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=runs))
            self._lock: TextIO = (self.path / "lock").open("w")
            # Held by QEMU as well, which inherits it: a kept machine is not swept away.
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.lock_fd = self._lock.fileno()

    @property
    def console(self) -> Path:
        """Xen's and dom0's serial console."""
        return self.path / "console.log"

    def close(self) -> None:
        """Remove the directory."""
        self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)


def sweep(runs: Path) -> None:
    """Remove run directories whose owner was killed before it could."""
    for path in runs.iterdir():
        with contextlib.suppress(OSError), (path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)


class Qemu:
    """A QEMU that runs, and dies with this process unless it is to be kept."""

    def __init__(
        self, run: Run, hardware: Hardware, images: Images, *, load: Path | None, keep: bool
    ) -> None:
        self.run = run
        arguments = hardware.arguments()
        for disk, readonly in disks(run, hardware, images):
            form = "raw" if readonly else "qcow2"
            option = "readonly=on" if readonly else "cache=unsafe"
            arguments += ["-drive", f"file={_escape(disk)},if=virtio,format={form},{option}"]
        arguments += [
            *("-serial", "file:console.log", "-qmp", "unix:qmp.sock,server=on,wait=off"),
            *("-chardev", "socket,id=lab,path=lab.sock,server=on,wait=off"),
            *("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=lab,name=lab"),
            *("-pidfile", "pid"),
        ]
        if load:
            arguments += ["-incoming", "defer"]

        def before_exec() -> None:
            if not keep:
                die_with_parent()
            # Ctrl-C at the terminal is for the lab, which then ends QEMU in order.
            os.setpgrp()

        with (run.path / "qemu.log").open("wb") as log:
            self.process = subprocess.Popen(
                arguments,
                cwd=run.path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(run.lock_fd,),
                preexec_fn=before_exec,  # noqa: PLW1509  -- calls only prctl and setpgrp
            )
        try:
            self.qmp = Qmp(run.path / "qmp.sock")
            if load:
                self._load(load)
        except BaseException as e:
            self.kill()
            said = (run.path / "qemu.log").read_text(errors="replace")
            if isinstance(e, LabError) and said.strip():
                raise LabError("QEMU did not start.", "Its message is above.", said[-2000:]) from e
            raise

    def save(self, ram: Path) -> None:
        """Stop the machine and save its state but for the disks."""
        self.qmp.execute("stop")
        self.qmp.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        self.qmp.migrate("migrate", f"exec:cat > '{ram}'")

    def _load(self, ram: Path) -> None:
        self.qmp.migrate("migrate-incoming", f"exec:cat '{ram}'")
        self.qmp.execute("cont")

    def check_alive(self) -> None:
        """Raise LabError where QEMU has ended or has stopped the machine for an error of its own."""
        said = (self.run.path / "qemu.log").read_text(errors="replace")[-2000:]
        if self.process.poll() is not None:
            raise LabError(
                f"The machine went down (QEMU ended with status {self.process.returncode}).", output=said
            )
        state = self.qmp.execute("query-status")["status"]
        if state not in ("running", "paused", "inmigrate"):
            raise LabError(f"QEMU stopped the machine: {state}.", output=said)

    def wait_end(self, timeout_s: float) -> bool:
        """Tell whether QEMU ended by itself in time."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if hasattr(self, "qmp"):
            self.qmp.close()


def version() -> str:
    """Return QEMU's version: a machine's state is loaded by the QEMU that saved it."""
    return command(
        ["qemu-system-x86_64", "--version"], "Asking QEMU for its version", "Run ./ci/setup --lab."
    )


def disks(run: Run, hardware: Hardware, images: Images) -> list[tuple[Path, bool]]:
    """Return the machine's disks in order with whether they are read-only; vda is the first."""
    scratch = [(run.path / f"scratch{i}.qcow2", False) for i in range(hardware.scratch_disks)]
    return [
        (run.path / "dom0.qcow2", False),
        (images.base.disk("guest"), True),
        (run.path / "product.qcow2", False),
        (images.product / "guest.ext4", True),
        *scratch,
    ]


def make_overlays(run: Run, hardware: Hardware, images: Images) -> None:
    """Make the writable disks as empty overlays on the images."""
    backing = {"dom0.qcow2": images.base.disk("dom0"), "product.qcow2": images.product / "dom0.ext4"}
    for disk, readonly in disks(run, hardware, images):
        if not readonly:
            overlay(disk, backing.get(disk.name, images.base.disk("scratch")), "raw")


def overlay(disk: Path, backing: Path, form: str) -> None:
    """Make `disk` a qcow2 overlay on `backing`."""
    command(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", form, disk], f"Making {disk.name}"
    )


def _escape(path: Path) -> str:
    return str(path).replace(",", ",,")
