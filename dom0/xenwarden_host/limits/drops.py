# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel's police actions have dropped, by one netlink dump (rtnetlink(7), RTM_GETACTION)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from xenwarden_host.errors import LimitError
from xenwarden_host.limits import rtnetlink
from xenwarden_host.limits.rtnetlink import attribute, attributes
from xenwarden_host.records import LimitState

if TYPE_CHECKING:
    from collections.abc import Iterable

# linux/rtnetlink.h, linux/pkt_cls.h, linux/gen_stats.h
_RTM_GETACTION = 50
_TCA_ROOT_TAB, _TCA_ROOT_FLAGS, _LARGE_DUMP = 1, 2, 1
_TCA_ACT_KIND, _TCA_ACT_OPTIONS, _TCA_ACT_STATS = 1, 2, 4
_TCA_POLICE_TBF = 1  # struct tc_police, whose first member is the action's index
_TCA_STATS_QUEUE = 3  # struct gnet_stats_queue: qlen, backlog, drops, requeues, overlimits
_TCAMSG = b"\0\0\0\0"


def police_drops() -> dict[int, int]:
    """Return by index how many packets each police action of this network namespace dropped.

    Raises:
        LimitError: the kernel does not tell.
    """
    kind = attribute(1, attribute(_TCA_ACT_KIND, b"police\0"))
    flags = struct.pack("=II", _LARGE_DUMP, _LARGE_DUMP)
    body = _TCAMSG + attribute(_TCA_ROOT_TAB, kind) + attribute(_TCA_ROOT_FLAGS, flags)
    try:
        return parse(rtnetlink.dump(_RTM_GETACTION, body))
    except (OSError, ValueError) as problem:
        raise LimitError(
            f"the kernel does not tell what limits drop: {problem}", LimitState.FAILED
        ) from problem


def parse(bodies: Iterable[bytes]) -> dict[int, int]:
    """Return the drops by index that the messages of a dump tell.

    Raises:
        ValueError: no such messages.
    """
    found: dict[int, int] = {}
    for body in bodies:
        for root, table in attributes(body[len(_TCAMSG) :]):
            if root == _TCA_ROOT_TAB:
                found.update(_action(action) for _order, action in attributes(table))
    return found


def _action(raw: bytes) -> tuple[int, int]:
    fields = dict(attributes(raw))
    options = dict(attributes(fields.get(_TCA_ACT_OPTIONS, b"")))
    statistics = dict(attributes(fields.get(_TCA_ACT_STATS, b"")))
    try:
        (index,) = struct.unpack_from("=I", options[_TCA_POLICE_TBF])
        _qlen, _backlog, drops = struct.unpack_from("=III", statistics[_TCA_STATS_QUEUE])
    except (KeyError, struct.error):
        raise ValueError("an action without index or statistics") from None
    return index, drops
