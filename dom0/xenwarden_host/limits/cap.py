# SPDX-License-Identifier: LGPL-2.1-or-later
"""`cap`: CPU time in percent of one CPU over all vCPUs of the domain, as in `xl sched-credit -c`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenwarden_host.errors import LimitError
from xenwarden_host.records import LimitState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.limits.kind import Text
    from xenwarden_host.protocols import Hypervisor
    from xenwarden_host.records import DomainInfo

NO_CAP = 0


class Cap:
    """The scheduler's cap. A place's text is the number; `0` is none, which any cap is stricter than.

    Xen takes no cap above 100 for each vCPU: more than that is no limit and is set as that.
    """

    ours_alone = False
    outlives_domain = True
    takes_time = False
    counted = False
    recheck_s = 0.0

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor

    def read(self, domain: DomainInfo) -> dict[str, Text]:
        """Return the cap, read from Xen."""
        params = self._hypervisor.sched_params(domain.domid)
        if params.cap is None:
            raise LimitError(f"the {params.scheduler} scheduler has no cap", LimitState.UNSUPPORTED)
        return {"": str(params.cap)}

    def plan(self, domain: DomainInfo, value: int, originals: Mapping[str, Text]) -> dict[str, Text]:
        """Return the lower of both, counting 0 as no cap."""
        cap = min(value, 100 * max(1, domain.vcpus_online))
        return {place: text if _stricter(text, cap) else str(cap) for place, text in originals.items()}

    def write(self, domain: DomainInfo, texts: Mapping[str, Text]) -> None:
        """Set the cap; the weight stays."""
        for text in texts.values():
            self._hypervisor.set_sched_params(domain.domid, cap=int(text or NO_CAP))


def _stricter(text: Text, cap: int) -> bool:
    original = int(text or NO_CAP)
    return original != NO_CAP and original <= cap
