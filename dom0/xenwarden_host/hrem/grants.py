# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a VM gets more of what it asks for. Pure: no host, no store, no clock.

The reasons are those of `xenwarden_channel.grants.REASONS`, which the VM is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenwarden_host.records import LimitKind, VmState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.policy.model import GrantRule


@dataclass(frozen=True, slots=True)
class Situation:
    """How a VM stands with one resource, in the unit of the resource."""

    status: VmState  # as HSEM answers
    has: int  # now, with what was granted
    own: int  # without
    ceiling: int | None  # what its configuration allows; None: it cannot be changed here
    maximum: int | None  # what policy names for this VM; None: so many times its own
    room: int  # what the host has left to give
    needs: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What a VM gets: so much more, or nothing; `why` is empty where it gets all."""

    more: int
    why: str


def decide(asked: int, situation: Situation, rule: GrantRule) -> Decision:
    """Return what the VM gets of the `asked` amount."""
    if situation.status is not VmState.NORMAL:
        return Decision(0, "suspicion")
    if situation.ceiling is None:
        return Decision(0, "not-here")
    if not situation.needs:
        return Decision(0, "not-needed")
    highest = int(situation.own * rule.times) if situation.maximum is None else situation.maximum
    below = min(highest, situation.ceiling) - situation.has
    if below <= 0:
        return Decision(0, "maximum")
    if situation.room <= 0:
        return Decision(0, "host-full")
    more = min(asked, rule.step, below, situation.room)
    return Decision(more, "" if more == asked else "in-part")


def used(kind: LimitKind, has: int, signals: Mapping[str, float]) -> float | None:
    """Return how much of what it has a VM uses; None where nobody says.

    Memory is the VM's own word (VREM), CPU is what dom0 counts (HREM). The weight counts as used as far as
    its vCPUs are: a VM that leaves its CPU idle has no use for a larger share.
    """
    share = signals.get("mem_used_pct" if kind is LimitKind.MEMORY else "vcpu_pct")
    return None if share is None else has * share / 100


def needs_more(kind: LimitKind, has: int, signals: Mapping[str, float], need_pct: float) -> bool:
    """Tell whether the VM uses most of what it has."""
    taken = used(kind, has, signals)
    return taken is not None and taken > has * need_pct / 100


def own_is_enough(kind: LimitKind, has: int, own: int, signals: Mapping[str, float], need_pct: float) -> bool:
    """Tell whether the VM could do without what was granted, by the same share."""
    taken = used(kind, has, signals)
    bound = own if kind is not LimitKind.WEIGHT else has
    return taken is None or taken <= bound * need_pct / 100
