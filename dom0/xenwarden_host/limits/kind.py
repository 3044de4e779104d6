# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the engine asks of a kind of limit. One file per kind implements it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.records import DomainInfo

# What stands at one place of a domain, in words that the kind can write back exactly; None: nothing.
Text = str | None


class Kind(Protocol):
    """A kind of limit: reads, plans and writes; the engine decides and remembers.

    A *place* is where one value stands: the empty string for a limit of the whole domain, a device id
    for one that is set per vif. Texts that `plan` makes compare equal to what `read` gives after `write`.

    Methods raise `LimitError`, `HypervisorError` and `StoreError`.
    """

    ours_alone: bool
    """Nobody else sets this: what is found there was left by us, and the original is nothing."""

    outlives_domain: bool
    """Xen or libxl carries the value over to the next domain of this VM (migration, save, reboot)."""

    takes_time: bool
    """A write is only begun: what reads back otherwise is not there yet."""

    counted: bool
    """Each write adds to or takes from a count of which only 0 or not is seen: it is never repeated."""

    recheck_s: float
    """How long a value that was read back is believed; 0: read at every reconciling."""

    def read(self, domain: DomainInfo) -> dict[str, Text]:
        """Return what stands now, at each place. Never empty: no place is `LimitError` `no-target`."""

    def plan(self, domain: DomainInfo, value: int, originals: Mapping[str, Text]) -> dict[str, Text]:
        """Return what is to stand at the places of `originals` while the VM is limited to `value`.

        Where the original is the stricter, that is the original itself.
        """

    def write(self, domain: DomainInfo, texts: Mapping[str, Text]) -> None:
        """Make each text stand at its place."""
