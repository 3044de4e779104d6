# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine with one VM, and a limit engine that can be restarted over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_host.libxl.fake import FakeHypervisor
from xenwarden_host.limits.engine import LimitEngine
from xenwarden_host.limits.fake import FakeVifs
from xenwarden_host.limits.journal import Journal
from xenwarden_host.records import LimitKey, LimitKind, LimitStatus, PacketClass

if TYPE_CHECKING:
    from pathlib import Path

VM = "6f2f7a0c-0000-4000-8000-000000000001"
CAP = LimitKey(LimitKind.CAP)
RATE = LimitKey(LimitKind.VIF_RATE)
SYN = LimitKey(LimitKind.VIF_PPS, PacketClass.SYN)
UDP = LimitKey(LimitKind.VIF_PPS, PacketClass.UDP)


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
        self.domid = self.xen.add(VM, "mallory", **vm)
        self.vifs.add(self.domid)
        self.restart()

    def restart(self) -> None:
        """Start the engine anew: all that it knows comes from the journal."""
        self.engine = LimitEngine(self.xen, self.vifs, Journal(self.file, boot_id=self.boot), self.clock)

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
