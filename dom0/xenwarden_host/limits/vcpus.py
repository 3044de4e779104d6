# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vcpus`: how many vCPUs the domain is told to use, as in `xl vcpu-set`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.limits.kind import Text
    from xenwarden_host.protocols import Hypervisor
    from xenwarden_host.records import DomainInfo


class Vcpus:
    """The vCPUs made available. The domain has to comply: where it may not, a cap is what limits."""

    ours_alone = False
    outlives_domain = True
    takes_time = True
    counted = False
    recheck_s = 0.0

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor

    def read(self, domain: DomainInfo) -> dict[str, Text]:
        """Return how many it was last told to use."""
        return {"": str(self._hypervisor.vcpus_available(domain.domid))}

    def plan(self, domain: DomainInfo, value: int, originals: Mapping[str, Text]) -> dict[str, Text]:  # noqa: ARG002
        """Return the lower of both."""
        return {place: str(min(value, int(text or value))) for place, text in originals.items()}

    def write(self, domain: DomainInfo, texts: Mapping[str, Text]) -> None:
        """Begin to tell it."""
        for text in texts.values():
            self._hypervisor.set_vcpus_available(domain.domid, int(text or 0))
