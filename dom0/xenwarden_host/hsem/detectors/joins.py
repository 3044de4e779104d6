# SPDX-License-Identifier: LGPL-2.1-or-later
"""What this VM sends is part of what another VM of this host is under watch for, by dom0's counters.

Arguments: `at_most_bytes` (any). The policy's `neighbours` says what is close enough, how small a part may
be, and how much of what arrives the senders of this host must make together.
Fires if another VM under watch for what reaches it received more packets when this one sent more, of the
same size; if all VMs of which that is true sent most of what it received more; and if dom0 counts as much
more there as is unusual of the kind of packets it is watched for: its agent's word is a hint, no more. Not
where the packets of the part are larger on average than `at_most_bytes`. In a case it is the VM's part from
then on, as long as it sends that still, whatever of it arrives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from xenwarden_host.hsem.sight import Hit, amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class Joins:
    """One of several, perhaps."""

    # Nothing to ask where nobody complains.
    gate: ClassVar[str] = "a flood next door"

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._at_most: float | None = arguments.get("at_most_bytes")
        self.signals: tuple[str, ...] = ()
        self.corruptible = self.signals

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        part = sight.host.part(sight.vm.uuid)
        if part is None or (self._at_most is not None and part.sent.size_bytes > self._at_most):
            return None
        text = (
            f"{amount(part.sent.rise_pps)}/s more packets sent as {part.receiver} began to receive "
            f"{amount(part.got.rise_pps)}/s more of that size"
        )
        if part.others:
            text += f", and by {part.others} other VM{'s' * (part.others > 1)} then, too"
        return Hit(sight.evidence("vif_tx_pps", part.sent.rise_pps, part.sent.base_pps, text))
