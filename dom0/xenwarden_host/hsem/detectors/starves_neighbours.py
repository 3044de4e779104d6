# SPDX-License-Identifier: LGPL-2.1-or-later
"""Others wait for what this VM takes.

Arguments: `signal` (of the others), `witnesses`.
Fires if the signal is over its usual upper limit in dom0, or in so many other VMs: what a single
guest says of others is a hint, never evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_channel.signals import SIGNALS
from xenwarden_host.hsem.sight import Hit
from xenwarden_host.records import VmType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class StarvesNeighbours:
    """Others go short."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._signal: str = arguments["signal"]
        self._witnesses: int = arguments["witnesses"]
        self.signals: tuple[str, ...] = ()
        self.corruptible = self.signals

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        others = sight.host.starving(self._signal, sight.vm.uuid)
        if len(others) < self._witnesses and not any(vm.vm_type is VmType.DOM0 for vm in others):
            return None
        text = f"{SIGNALS[self._signal][2]}: over what is usual in {', '.join(vm.name for vm in others)}"
        return Hit(sight.evidence(self._signal, len(others), self._witnesses, text))
