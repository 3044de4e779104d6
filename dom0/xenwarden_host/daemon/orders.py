# SPDX-License-Identifier: LGPL-2.1-or-later
"""What agents are ordered, as policy says: made once for all VMs that are told the same."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from xenwarden_channel.messages import MAX_VALUE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xenwarden_host.policy.model import Policy
    from xenwarden_host.records import DomainInfo, Level

log = logging.getLogger("xenwarden")


class Orders:
    """The fields of `~/xenwarden/order`."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._networks = _fitting(policy.provider_networks)
        self._named = bool(policy.nodes) or any(entry.self_asks is not None for entry in policy.vms)
        self._made: dict[tuple[Level, tuple[str, ...]], Mapping[str, str | float]] = {}

    def order(self, info: DomainInfo, level: Level) -> Mapping[str, str | float]:
        """Return what this domain's agent is ordered; the same object as long as it is the same."""
        asks = self._policy.grants.self_asks
        if info.service:
            asks = ()  # it is granted nothing
        elif self._named:
            asks = self._policy.vm(info.uuid, info.name).self_asks
        found = self._made.get((level, asks))
        if found is None:
            found = self._made[level, asks] = self._make(level, asks)
        return found

    def _make(self, level: Level, asks: tuple[str, ...]) -> Mapping[str, str | float]:
        levels, grants = self._policy.levels, self._policy.grants
        fields: dict[str, str | float] = {
            "level": str(int(level)),
            "level1_s": levels.level1_s,
            "level2_s": levels.level2_s,
            "level2_max_s": levels.level2_max_s,
            "networks": self._networks,
        }
        if asks:
            fields |= {f"more_{what}": grants.resources[what].step for what in asks}
            fields |= {"more_after_s": grants.pressed_s, "more_every_s": grants.every_s}
        return fields


def _fitting(networks: Sequence[str]) -> str:
    """Return the list as one field's value, without those at its end that do not fit."""
    out = ""
    for network in networks:
        longer = f"{out},{network}" if out else network
        if len(longer) > MAX_VALUE:
            log.warning("event=networks-cut kept=%d of=%d", out.count(",") + 1, len(networks))
            break
        out = longer
    return out
