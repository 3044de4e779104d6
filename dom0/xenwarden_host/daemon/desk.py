# SPDX-License-Identifier: LGPL-2.1-or-later
"""What HREM's desks have in common: that of requests for more, and that of the balancer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xenwarden_host import audit
from xenwarden_host.records import LimitKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xenwarden_host.audit import Audit
    from xenwarden_host.daemon.tracker import Guest
    from xenwarden_host.hrem.grantbook import GrantBook
    from xenwarden_host.policy.model import Policy
    from xenwarden_host.protocols import Clock, Hypervisor, Store
    from xenwarden_host.records import VmState

NAMES = {LimitKind.MEMORY: "memory", LimitKind.VCPUS: "vCPUs", LimitKind.WEIGHT: "weight"}


@dataclass(frozen=True, slots=True)
class Tools:
    """What a desk works with.

    Attributes:
        book: what is granted, and what is lent.
        status: HSEM's answer to how it stands with a VM.
        signals: VREM's, where its agent is to be believed, and HREM's of a VM.
    """

    book: GrantBook
    hypervisor: Hypervisor
    store: Store
    clock: Clock
    audit: Audit
    status: Callable[[str], VmState]
    signals: Callable[[Guest], Mapping[str, float]]


class Desk:
    """One for all VMs."""

    def __init__(self, policy: Policy, tools: Tools) -> None:
        self.policy = policy
        self.book = tools.book
        self._hypervisor = tools.hypervisor
        self._store = tools.store
        self._clock = tools.clock
        self._audit = tools.audit
        self._status = tools.status
        self._signals = tools.signals

    def _record(self, event: str, guest: Guest, text: str, kind: LimitKind, **data: Any) -> None:
        self._audit.record(
            event,
            who=audit.HREM,
            text=text,
            uuid=guest.info.uuid,
            name=guest.info.name,
            kind=str(kind),
            **data,
        )


def number(kind: LimitKind, value: int) -> str:
    """Return an amount of a resource for a sentence."""
    return f"{value / 1024:.4g} MB" if kind is LimitKind.MEMORY else str(value)
