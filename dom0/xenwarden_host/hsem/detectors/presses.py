# SPDX-License-Identifier: LGPL-2.1-or-later
"""The VM uses a limit of ours up, or nearly: it wants more.

Arguments: `limit`, `at_least` (0 to 1).
Fires if the VM uses this share of the limit, or for `vif-pps` if the limit drops anything. Without
such a limit in force there is nothing to press against: it fires, and the rest of the group decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_channel.signals import SIGNALS
from xenwarden_host.hsem.sight import Hit, measured
from xenwarden_host.records import LimitKey, LimitKind

# Who shows what a limit of this kind lets through, or holds back.
_USES = {
    LimitKind.CAP: "vcpu_pct",
    LimitKind.VIF_RATE: "vif_tx_bps",
    LimitKind.VIF_PPS: "vif_police_drop_pps",
}

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class Presses:
    """The limit holds something back."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._key = LimitKey.parse(arguments["limit"])
        self._at_least: float = arguments["at_least"]
        self.signals = (_USES[self._key.kind],)
        self.corruptible: tuple[str, ...] = ()  # what the limit lets through is just what it looks at

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        limit = sight.limits.get(self._key)
        signal = _USES[self._key.kind]
        value = sight.signals.get(signal)
        if value is None:
            return None
        if limit is None:
            return Hit(sight.evidence(signal, value, value, f"no limit {self._key} is in force yet"))
        if self._key.kind is LimitKind.VIF_PPS:
            used, full = value, 0.0
        else:
            used = value * sight.vm.vcpus if self._key.kind is LimitKind.CAP else value
            full = self._at_least * limit
        if used <= full:
            return None
        text = (
            f"{SIGNALS[signal][2]}: {measured(signal, value)}; the limit {self._key} of {limit:,} is used up"
        )
        return Hit(sight.evidence(signal, value, full, text))
