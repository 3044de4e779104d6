# SPDX-License-Identifier: LGPL-2.1-or-later
"""`pause`: the domain does not run at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.limits.kind import Text
    from xenwarden_host.protocols import Hypervisor
    from xenwarden_host.records import DomainInfo

PAUSED = "paused"
RUNNING = "running"


class Pause:
    """Xen counts pauses and shows only whether there are any.

    So a domain that somebody else paused is not paused again, and one that is still paused after our one
    pause was taken back has somebody else's, which stays. What cannot be seen: a daemon that dies right
    after taking its pause back, while an admin has paused as well. The domain then looks as if nothing
    had been done, and the admin's pause goes too: rather that than a domain that nobody resumes.
    """

    ours_alone = False
    outlives_domain = False
    takes_time = True
    counted = True
    recheck_s = 0.0

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor

    def read(self, domain: DomainInfo) -> dict[str, Text]:
        """Return whether the domain is paused now, not when it was listed."""
        return {"": PAUSED if self._hypervisor.paused(domain.domid) else RUNNING}

    def plan(self, domain: DomainInfo, value: int, originals: Mapping[str, Text]) -> dict[str, Text]:  # noqa: ARG002
        """Return `paused`."""
        return dict.fromkeys(originals, PAUSED)

    def write(self, domain: DomainInfo, texts: Mapping[str, Text]) -> None:
        """Pause once, or take one pause back."""
        for text in texts.values():
            if text == PAUSED:
                self._hypervisor.pause(domain.domid)
            else:
                self._hypervisor.unpause(domain.domid)
