# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine with one VM, and a limit engine that can be restarted over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_host.libxl.fake import FakeHypervisor
from xenwarden_host.limits.engine import LimitEngine
from xenwarden_host.limits.fake import FakeVbds, FakeVifs
from xenwarden_host.limits.journal import Journal
from xenwarden_host.records import LimitKey, LimitKind, LimitStatus, PacketClass

if TYPE_CHECKING:
    from pathlib import Path

VM = "6f2f7a0c-0000-4000-8000-000000000001"
CAP = LimitKey(LimitKind.CAP)
RATE = LimitKey(LimitKind.VIF_RATE)
SYN = LimitKey(LimitKind.VIF_PPS, PacketClass.SYN)
UDP = LimitKey(LimitKind.VIF_PPS, PacketClass.UDP)
VIF_IN, VBD_IO = LimitKey(LimitKind.VIF_IN), LimitKey(LimitKind.VBD_IO)
WEIGHT, PAUSE, MEMORY, VCPUS = (LimitKey(LimitKind(name)) for name in ("weight", "pause", "memory", "vcpus"))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def unix(self) -> float:
        return self.now


class Host:
    """A machine with one VM, and the engine that can be restarted over it."""

    def __init__(self, folder: Path, **vm: Any) -> None:
        self.file = folder / "state.db"
        self.boot = "boot-1"
        self.clock = Clock()
        self.xen = FakeHypervisor()
        self.vifs = FakeVifs()
        self.vbds = FakeVbds()
        self.has_vbds = True
        self.journal: Journal | None = None
        self.domid = self.xen.add(VM, "mallory", **vm)
        self.vifs.add(self.domid)
        self.restart()

    def restart(self, fault: Fault | None = None) -> None:
        """Start the engine anew: all that it knows comes from the journal."""
        guard = (fault or Fault()).guard
        if self.journal is not None:
            self.journal.close()
        self.journal = Journal(self.file, boot_id=self.boot)
        vbds = guard(self.vbds) if self.has_vbds else None
        xen, vifs, journal = guard(self.xen), guard(self.vifs), guard(self.journal)
        self.engine = LimitEngine(xen, vifs, journal, self.clock, vbds)

    def tick(self) -> list[LimitStatus]:
        self.clock.now += 1
        return self.engine.reconcile(self.xen.list_domains())

    def migrate(self) -> None:
        old, self.domid = self.domid, self.xen.renumber(self.domid)
        self.vifs.renumber(old, self.domid)

    def want(self, key: LimitKey, value: int, owner: str = "hsem") -> None:
        self.engine.want(VM, key, value, owner, "a test wants it")

    @property
    def cap(self) -> int | None:
        return self.xen.sched_params(self.domid).cap

    @property
    def rate(self) -> str | None:
        return self.vifs.rate(self.domid, 0)


class Killed(BaseException):
    """The daemon died here. No `except Exception` may outlive it."""


class Fault:
    """Dies at the n-th call of anything that it guards, before or after the call takes effect."""

    def __init__(self, at: int = -1, *, after: bool = False) -> None:
        self.at = at
        self.after = after
        self.points: list[str] = []

    def guard(self, thing: Any) -> Any:
        """Return `thing` with every method a fault point."""
        return _Guarded(self, thing)

    def call(self, name: str, method: Any, args: Any, kwargs: Any) -> Any:
        """Call, and die where it is time."""
        self.points.append(name)
        now = len(self.points) - 1 == self.at
        if now and not self.after:
            raise Killed(name)
        answer = method(*args, **kwargs)
        if now:
            raise Killed(name)
        return answer


class _Guarded:
    def __init__(self, fault: Fault, thing: Any) -> None:
        self._fault = fault
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._thing, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._fault.call(f"{type(self._thing).__name__}.{name}", method, args, kwargs)

        return call
