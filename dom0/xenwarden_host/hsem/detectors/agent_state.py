# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent does not speak, or not our language.

Arguments: `is` (list of absent, silent, garbled, version).
Fires if dom0 stands so with the agent, while the VM could run: not paused, not capped by us, known
long enough to have been heard, and silent for longer than a busy VM explains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_channel.signals import HREM
from xenwarden_host.hsem.sight import Hit
from xenwarden_host.records import AgentState, Evidence

_TEXTS = {
    AgentState.ABSENT: "the agent has never reported",
    AgentState.SILENT: "the agent has not reported for {age_s:.0f} s, though the VM could run",
    AgentState.GARBLED: "what the agent writes is no message",
    AgentState.VERSION: "the agent speaks another version of the protocol",
}

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class AgentStateIs:
    """An agent without a voice."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._states = frozenset(AgentState(state) for state in arguments["is"])
        self.signals: tuple[str, ...] = ()
        self.corruptible = self.signals

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        vm = sight.vm
        if vm.agent not in self._states or vm.paused or sight.starved or not sight.settled:
            return None
        if vm.agent is AgentState.SILENT and sight.agent_may_be_late:
            return None
        age_s = vm.report_age_s or 0.0
        evidence = Evidence("agent", age_s, 0.0, "s", HREM, sight.rule, _TEXTS[vm.agent].format(age_s=age_s))
        return Hit(evidence)
