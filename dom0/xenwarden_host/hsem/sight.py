# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a detector sees: one VM at one tick, and its neighbours; and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from xenwarden_channel.signals import HREM, SIGNALS
from xenwarden_host.records import Evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from xenwarden_host.hsem.detectors import Detector
    from xenwarden_host.hsem.habit import Habit, HabitKey
    from xenwarden_host.hsem.traffic import Step, Traffic
    from xenwarden_host.policy.model import HistoryPolicy
    from xenwarden_host.records import LimitKey, VmView


class Hit(NamedTuple):
    """A detector fired. `strength`: so many times the usual upper limit; None where that says nothing."""

    evidence: Evidence
    strength: float | None = None


@dataclass(slots=True)
class Flow:
    """One end of a flood between two VMs of this host."""

    uuid: str
    name: str
    step: Step
    convicted: bool = False  # the sender is contained
    ended: bool = False  # the receiver's rise is gone
    complains: bool = False  # the receiver is under watch for what reaches it
    explained: bool = False  # other suspects send as much as the receiver got


class Part(NamedTuple):
    """A VM's part in a flood: its own rise, that of the receiver, and how many other VMs are part of it."""

    receiver: str
    sent: Step
    got: Step
    others: int


class Neighbourhood(Protocol):
    """What is known of a VM's neighbours on this host."""

    def victims(self, uuid: str) -> list[Flow]:
        """Return whom this VM floods."""

    def flooders(self, uuid: str) -> list[Flow]:
        """Return the suspects that flood this VM."""

    def part(self, uuid: str) -> Part | None:
        """Return this VM's part in what another is under watch for; None without one."""

    def starving(self, signal: str, besides: str) -> list[VmView]:
        """Return the other VMs in which the signal is over its usual upper limit."""

    def claims_are_stopped(self) -> bool:
        """Tell whether all VMs that claim others' addresses are held from any ARP."""


@dataclass(slots=True)
class Sight:
    """One VM at one tick. Signals are the report's and dom0's; our limits corrupt the masked ones."""

    vm: VmView
    now_s: float
    signals: Mapping[str, float]
    said: Mapping[str, float]  # the agent's own words, of this tick
    seen: Collection[str]  # signals of VSEM that dom0 saw itself, whatever the agent says
    upper: Callable[[str], float | None]
    trusted: bool  # the agent speaks, and agrees with dom0's own counters
    span_s: float  # that counts among the signals cover: the report's, or dom0's own where it saw them
    over: frozenset[str]  # signals that are over their usual upper limit
    before: Mapping[str, float]  # means of the last ordinary reports, of what rules compare with them
    habits: Mapping[HabitKey, Habit]
    enough: HistoryPolicy  # when something is learnt
    masked: frozenset[str]
    traffic: Traffic
    limits: Mapping[LimitKey, int]  # ours, wanted and in force
    starved: bool  # a cap of ours keeps the agent from running
    settled: bool  # dom0 knows the VM long enough to expect an agent's word
    agent_may_be_late: bool  # silent, but not yet for longer than a busy VM explains
    host: Neighbourhood
    refused: dict[Detector, Detector]  # by a group's first, who did not fire last: likely not now either
    rule: str = ""  # the rule that asks

    def evidence(self, signal: str, value: float, usual: float, text: str) -> Evidence:
        """Return evidence about the VM; unit and source are the signal's."""
        source, unit, _meaning = SIGNALS[signal]
        return Evidence(signal, value, usual, unit, HREM if signal in self.seen else source, self.rule, text)


def amount(value: float) -> str:
    """Return a number for a sentence: three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def measured(signal: str, value: float) -> str:
    """Return a value with its unit for a sentence."""
    unit = SIGNALS[signal][1]
    if unit == "ratio":
        return f"{100 * value:.0f} %"
    return amount(value) + {"1/s": "/s", "count": "", "%": " %", "bit/s": " bit/s", "s": " s"}[unit]
