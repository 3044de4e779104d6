# SPDX-License-Identifier: LGPL-2.1-or-later
"""`weight`: the domain's share of contended CPU, as in `xl sched-credit -w`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenwarden_host.errors import LimitError
from xenwarden_host.records import LimitState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.limits.kind import Text
    from xenwarden_host.protocols import Hypervisor
    from xenwarden_host.records import DomainInfo


class Weight:
    """The scheduler's weight; the text is the number, and the lower is the stricter.

    Both credit schedulers count it per vCPU. It limits nothing as long as nobody else wants the CPU.
    """

    ours_alone = False
    outlives_domain = True
    takes_time = False
    counted = False
    recheck_s = 0.0

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor

    def read(self, domain: DomainInfo) -> dict[str, Text]:
        """Return the weight, read from Xen."""
        params = self._hypervisor.sched_params(domain.domid)
        if params.weight is None:
            raise LimitError(f"the {params.scheduler} scheduler has no weight", LimitState.UNSUPPORTED)
        return {"": str(params.weight)}

    def plan(self, domain: DomainInfo, value: int, originals: Mapping[str, Text]) -> dict[str, Text]:  # noqa: ARG002
        """Return the lower of both."""
        return {place: str(min(value, int(text or value))) for place, text in originals.items()}

    def write(self, domain: DomainInfo, texts: Mapping[str, Text]) -> None:
        """Set the weight; the cap stays."""
        for text in texts.values():
            self._hypervisor.set_sched_params(domain.domid, weight=int(text or 0))
