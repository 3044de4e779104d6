# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent says far less than dom0 counts itself.

Arguments: `said` (the agent's signal), `counted` (dom0's: of its counters, or of the headers that its own
agent samples at level 2), `times`, `slack`.
Fires if dom0's mean since the report before is more than `times` what the agent said, plus `slack`. What
time its report covers the agent may claim: dom0 compares over its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_channel.signals import SIGNALS
from xenwarden_host.hsem.sight import Hit, amount, measured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class Understates:
    """The agent does not tell the truth."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._said: str = arguments["said"]
        self._counted: str = arguments["counted"]
        self._times: float = arguments["times"]
        self._slack: float = arguments["slack"]
        self.signals = (self._said,)
        # Both are counted before any limit drops a packet, and held back alike by a rate.
        self.corruptible: tuple[str, ...] = ()

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        said = sight.said.get(self._said)
        if said is None:
            return None
        counted = sight.traffic.mean(self._counted, sight.now_s - sight.vm.passed_s)
        if counted is None or counted <= self._times * said + self._slack:
            return None
        claim = f"the agent says {measured(self._said, said)} {SIGNALS[self._said][2]}"
        text = f"{claim}, dom0 counts {amount(counted)}/s"
        return Hit(sight.evidence(self._counted, counted, said, text))
