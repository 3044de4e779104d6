# SPDX-License-Identifier: LGPL-2.1-or-later
"""One VM's turn in one tick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from xenwarden_host.hsem.rules import Outcome, Rule
    from xenwarden_host.hsem.sight import Sight
    from xenwarden_host.hsem.state import Case, Vm
    from xenwarden_host.policy.model import VmPolicy
    from xenwarden_host.records import Evidence, Snapshot, VmView


class Fired(NamedTuple):
    """A rule that fires, and whether it does so strongly or long enough to raise."""

    rule: Rule
    outcome: Outcome
    enough: bool


@dataclass(slots=True)
class Turn:
    """One VM at one tick: what is kept of it, what is seen of it, and whether its agent is believed."""

    vm: Vm
    view: VmView
    sight: Sight
    trusted: bool
    policy: VmPolicy
    snapshot: Snapshot

    @property
    def fresh(self) -> bool:
        """Tell whether the agent has said something since the tick before."""
        return self.view.report_is_new and self.view.report is not None

    def hears(self, rule: Rule) -> bool:
        """Tell whether the rule is for a VM with such an agent."""
        return rule.hears(trusted=self.trusted)


def case_of(vm: Vm) -> Case:
    """Return the VM's case, which every state but NORMAL has."""
    if vm.case is None:
        raise AssertionError(f"{vm.uuid} is {vm.state} without a case")
    return vm.case


def sentence(evidence: tuple[Evidence, ...]) -> str:
    """Return what the evidence says, in a sentence."""
    return "; ".join(item.text for item in evidence)
