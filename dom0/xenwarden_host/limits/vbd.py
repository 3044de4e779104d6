# SPDX-License-Identifier: LGPL-2.1-or-later
"""The disks of a domain that blkback serves, limited by cgroup v2: `protocols.VbdControl`.

blkback serves each disk with kernel threads named `<domid>.<device>-<ring>`. What they read and write
is charged to the cgroup that they are in, so a group of their own with `io.max` limits the domain. A
thread is new after a reconnect and starts in the root group again: a limit is in force only where every
thread of the disk is in our group, and is read back as none otherwise.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from xenwarden_channel.errors import NotFoundError
from xenwarden_host.errors import LimitError
from xenwarden_host.records import LimitState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.protocols import Store

_CLOSING = (b"5", b"6")
_GROUP = "xenwarden-vbd-"
_COMM_LENGTH = 15  # the kernel cuts a thread's name there


class DomainVbds:
    """Implements `protocols.VbdControl`.

    Args:
        store: XenStore.
        cgroups: where cgroup v2 is mounted.
        proc, sys: the kernel's files.
    """

    def __init__(
        self,
        store: Store,
        *,
        cgroups: Path = Path("/sys/fs/cgroup"),
        proc: Path = Path("/proc"),
        sys: Path = Path("/sys"),
    ) -> None:
        self._store = store
        self._cgroups = cgroups
        self._proc = proc
        self._sys = sys

    def limits(self, domid: int) -> dict[int, int | None]:
        """Return bytes per second, each way, of every disk that blkback serves; None where it has no limit.

        Raises:
            LimitError: `unsupported` where this dom0 has no cgroup v2 with the io controller.
        """
        disks = self._disks(domid)
        if disks and not (self._cgroups / "cgroup.controllers").exists():
            raise LimitError(f"no cgroup v2 at {self._cgroups}", LimitState.UNSUPPORTED)
        # Without a group there is no limit, and no need to look at every thread of dom0.
        group = self._group(domid)
        threads = self._threads(domid, disks) if group.exists() else {}
        inside = set(_lines(group / "cgroup.procs"))
        bytes_of = _io_max(_lines(group / "io.max"))
        return {
            devid: bytes_of.get(device) if threads.get(devid) and threads[devid] <= inside else None
            for devid, (device, _name) in disks.items()
        }

    def set_limits(self, domid: int, wanted: Mapping[int, int | None]) -> None:
        """Make `wanted` the limits of the disks named; where none is left, all trace of them goes.

        What was left of domains that went goes as well.
        """
        disks = self._disks(domid)
        threads = self._threads(domid, disks)
        group = self._group(domid)
        try:
            if any(limit is not None for limit in wanted.values()):
                if "io" not in (self._cgroups / "cgroup.subtree_control").read_text().split():
                    (self._cgroups / "cgroup.subtree_control").write_text("+io")
                group.mkdir(exist_ok=True)
            for devid, limit in wanted.items():
                if devid not in disks:
                    raise LimitError(f"disk {devid} of domain {domid} went away", LimitState.NO_TARGET)
                amount = "max" if limit is None else str(limit)
                if group.exists():
                    (group / "io.max").write_text(f"{disks[devid][0]} rbps={amount} wbps={amount}")
                home = self._cgroups if limit is None else group
                for pid in threads.get(devid, ()):
                    (home / "cgroup.procs").write_text(pid)
            for unused in self._cgroups.glob(f"{_GROUP}*"):
                with contextlib.suppress(OSError):  # the kernel removes none that a thread is in
                    unused.rmdir()
        except OSError as problem:
            raise LimitError(f"cgroup refused: {problem}", LimitState.FAILED) from problem

    def _disks(self, domid: int) -> dict[int, tuple[str, str]]:
        """Return `MAJOR:MINOR` and the guest's name of each disk that blkback serves."""
        base = f"/local/domain/0/backend/vbd/{domid}"
        try:
            devids = sorted(int(name) for name in self._store.directory(base) if name.isdigit())
        except NotFoundError:
            return {}
        fields = ("physical-device", "dev", "state")
        values = self._store.read_many([f"{base}/{devid}/{field}" for devid in devids for field in fields])
        disks = {}
        for i, devid in enumerate(devids):
            number, name, state = values[3 * i : 3 * i + 3]
            if number and name and state not in _CLOSING:
                disks[devid] = (self._whole_disk(number.decode("ascii")), name.decode("ascii", "replace"))
        return disks

    def _whole_disk(self, number: str) -> str:
        """Return the decimal device number; of a partition, that of its disk, since io.max takes no other."""
        major, _colon, minor = number.partition(":")
        try:
            device = f"{int(major, 16)}:{int(minor, 16)}"
            block = self._sys / "dev" / "block" / device
            if (block / "partition").exists():
                return (block.resolve().parent / "dev").read_text(encoding="ascii").strip()
        except (OSError, ValueError) as problem:
            raise LimitError(
                f"block device {number} is not to be had: {problem}", LimitState.FAILED
            ) from None
        return device

    def _threads(self, domid: int, disks: Mapping[int, tuple[str, str]]) -> dict[int, set[str]]:
        """Return the process ids of the kernel threads that serve each disk."""
        starts = {devid: f"{domid}.{name}-"[:_COMM_LENGTH] for devid, (_device, name) in disks.items()}
        found: dict[int, set[str]] = {}
        for pid in filter(str.isdigit, os.listdir(self._proc)):  # noqa: PTH208  pathlib takes thrice as long
            try:
                thread = _read(f"{self._proc}/{pid}/comm").decode(errors="replace")
                of = [devid for devid, start in starts.items() if thread.startswith(start)]
                if of and _read(f"{self._proc}/{pid}/cmdline"):
                    continue  # a process that calls itself so
            except OSError:  # ended meanwhile
                continue
            for devid in of:
                found.setdefault(devid, set()).add(pid)
        return found

    def _group(self, domid: int) -> Path:
        return self._cgroups / f"{_GROUP}{domid}"


def _read(path: str) -> bytes:
    """Return the beginning of a small file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 64)
    finally:
        os.close(fd)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []


def _io_max(lines: list[str]) -> dict[str, int]:
    """Return bytes per second by device, as `io.max` shows them, where both ways have the same limit."""
    found = {}
    for line in lines:
        device, *words = line.split()
        limits = dict(word.split("=", 1) for word in words)
        if limits.get("rbps", "max").isdigit() and limits.get("rbps") == limits.get("wbps"):
            found[device] = int(limits["rbps"])
    return found
