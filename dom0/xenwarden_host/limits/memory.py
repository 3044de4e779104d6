# SPDX-License-Identifier: LGPL-2.1-or-later
"""`memory`: what the domain is to balloon down to and cannot have more than, as in `xl mem-set`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.limits.kind import Text
    from xenwarden_host.protocols import Hypervisor
    from xenwarden_host.records import DomainInfo


class Memory:
    """The balloon target in kB. A domain that does not give memory back keeps it, but gets no more."""

    ours_alone = False
    outlives_domain = True
    takes_time = True
    counted = False
    recheck_s = 0.0

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor

    def read(self, domain: DomainInfo) -> dict[str, Text]:
        """Return the target."""
        return {"": str(self._hypervisor.memory_target_kb(domain.domid))}

    def plan(self, domain: DomainInfo, value: int, originals: Mapping[str, Text]) -> dict[str, Text]:  # noqa: ARG002
        """Return the lower of both."""
        return {place: str(min(value, int(text or value))) for place, text in originals.items()}

    def write(self, domain: DomainInfo, texts: Mapping[str, Text]) -> None:
        """Begin to set the target."""
        for text in texts.values():
            self._hypervisor.set_memory_target(domain.domid, int(text or 0))
