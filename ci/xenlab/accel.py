# SPDX-License-Identifier: LGPL-2.1-or-later
"""Choose how QEMU runs the machine: KVM where it really runs Xen, else TCG, which runs everywhere."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from xenlab import progress, qemu, store
from xenlab.errors import LabError

if TYPE_CHECKING:
    from xenlab.layers import Images
    from xenlab.scenario import Machine

PROBE_S = 20.0


def choose(wanted: str, images: Images, machine: Machine) -> str:
    """Return `tcg` or `kvm` for `auto`, `tcg` or `kvm`. Raises LabError where `kvm` does not work."""
    if wanted == "tcg":
        return "tcg"
    needs_hap = any(g.type == "pvh" for g in machine.guests)
    reason = _why_not_kvm(images, needs_hap=needs_hap)
    if not reason:
        return "kvm"
    if wanted == "kvm":
        raise LabError(f"KVM does not work here: {reason}.", "Use --accel tcg, which works everywhere.")
    return "tcg"


def _why_not_kvm(images: Images, *, needs_hap: bool) -> str:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm is not there or not ours"
    flags = Path("/proc/cpuinfo").read_text().split()
    if needs_hap and not {"svm", "vmx"} & set(flags):
        return "this machine's CPU offers no nested virtualisation, which PVH guests need"
    # A probe costs up to 20 s: asked once per boot of this machine and Xen image.
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text()
    answer = store.cache_dir() / f"kvm-{store.key_of([boot_id, images.base.path.name])}"
    if not answer.exists():
        for old in store.cache_dir().glob("kvm-*"):
            old.unlink(missing_ok=True)
        progress.say("trying whether Xen boots with KVM here")
        answer.write_text(_probe(images))
    return answer.read_text()


def _probe(images: Images) -> str:
    """Boot Xen and dom0's kernel without any disk; return why that fails, "" where it works."""
    with tempfile.TemporaryDirectory(prefix="xenlab-kvm-") as directory:
        console = Path(directory) / "console"
        process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-nodefaults", *qemu.ACCELERATORS["kvm"], "-m", "1G", "-smp", "2"),
                *("-display", "none", "-no-reboot", "-serial", f"file:{console}"),
                *("-kernel", str(images.base.xen), "-append", "console=com1 noreboot"),
                *("-initrd", f"{images.base.kernel} console=hvc0"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=directory,
        )
        try:
            end = time.monotonic() + PROBE_S
            while time.monotonic() < end and process.poll() is None:
                # The dom0 kernel's first words: Xen itself is up, and so is PV.
                if console.exists() and "Linux version" in console.read_text(errors="replace"):
                    return ""
                time.sleep(0.1)
            return (
                "QEMU ended" if process.poll() is not None else f"Xen did not start dom0 in {PROBE_S:.0f} s"
            )
        finally:
            process.kill()
            process.wait()
