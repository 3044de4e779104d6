# SPDX-License-Identifier: LGPL-2.1-or-later
"""Detectors: one file each, named as in the policy. A detector says whether it fires, and the evidence.

A new one: a file with a class whose `signals` are those it reads (and `corruptible` those that a limit
of ours makes useless to it), whose `check` returns a `Hit` or None; an entry in `DETECTORS`; its
arguments in `policy/schema.json`. A detector keeps nothing between calls and knows no threshold but
its arguments and what is usual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from xenwarden_host.hsem.detectors.above import Above
from xenwarden_host.hsem.detectors.agent_state import AgentStateIs
from xenwarden_host.hsem.detectors.asks_each import AsksEach
from xenwarden_host.hsem.detectors.claimed import Claimed
from xenwarden_host.hsem.detectors.flooded import Flooded
from xenwarden_host.hsem.detectors.floods import Floods
from xenwarden_host.hsem.detectors.joins import Joins
from xenwarden_host.hsem.detectors.many_ports import ManyPorts
from xenwarden_host.hsem.detectors.overflows import Overflows
from xenwarden_host.hsem.detectors.packet_size import PacketSize
from xenwarden_host.hsem.detectors.per import Per
from xenwarden_host.hsem.detectors.presses import Presses
from xenwarden_host.hsem.detectors.rises import Rises
from xenwarden_host.hsem.detectors.share import Share
from xenwarden_host.hsem.detectors.spread import Spread
from xenwarden_host.hsem.detectors.starves_neighbours import StarvesNeighbours
from xenwarden_host.hsem.detectors.surge import Surge
from xenwarden_host.hsem.detectors.unanswered import Unanswered
from xenwarden_host.hsem.detectors.understates import Understates
from xenwarden_host.hsem.detectors.unlike import Unlike
from xenwarden_host.hsem.detectors.unprovoked import Unprovoked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from xenwarden_host.hsem.sight import Hit, Sight
    from xenwarden_host.policy.model import DetectorSpec


class Detector(Protocol):
    """What every detector is."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        """Take the arguments as the policy gives them; the schema has checked them."""

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals it reads of the report or of dom0's counters."""

    @property
    def corruptible(self) -> tuple[str, ...]:
        """Those of them that make it blind where a limit of ours corrupts them: all, but for a reason."""

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""


DETECTORS: dict[str, type[Detector]] = {
    "above": Above,
    "agent-state": AgentStateIs,
    "asks-each": AsksEach,
    "claimed": Claimed,
    "flooded": Flooded,
    "floods": Floods,
    "joins": Joins,
    "many-ports": ManyPorts,
    "overflows": Overflows,
    "packet-size": PacketSize,
    "per": Per,
    "presses": Presses,
    "rises": Rises,
    "share": Share,
    "spread": Spread,
    "starves-neighbours": StarvesNeighbours,
    "surge": Surge,
    "unanswered": Unanswered,
    "understates": Understates,
    "unlike": Unlike,
    "unprovoked": Unprovoked,
}


def make(spec: DetectorSpec) -> Detector:
    """Return the detector that the policy names."""
    return DETECTORS[spec.name](spec.arguments)
