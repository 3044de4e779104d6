# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is known of one place, and whose word it is that stands there now. Pure: no host, no journal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenwarden_host.limits.kind import Text
    from xenwarden_host.records import LimitKey

# Texts that are remembered for one place. A VM whose limit was changed more often, and that is restored
# from a save file older than that, keeps the value of then.
MAX_TEXTS = 64


@dataclass(frozen=True, slots=True)
class Place:
    """What was and is at one place of a VM.

    `applied` is what was last seen of ours, `intended` is what the next write is to make of it; after a
    crash either may be found. `texts` are all that we ever made of it and that were not its original: a
    saved or migrated domain may come back with any of them. An inactive place holds no limit; it is
    remembered for that reason alone.
    """

    uuid: str
    key: LimitKey
    place: str
    active: bool
    original: Text
    applied: Text
    intended: Text
    texts: tuple[Text, ...]
    domid: int

    @property
    def id(self) -> tuple[str, LimitKey, str]:
        """What the place is known by."""
        return self.uuid, self.key, self.place


class Whose(StrEnum):
    """Whose word stands at a place."""

    ORIGINAL = "original"
    OURS = "ours"
    ADMIN = "admin"  # set by somebody else since; on a new domain: what it came with
    CARRIED = "carried-along"  # ours, from before a release, on a new domain


def judge(known: Place, text: Text, domid: int) -> tuple[Place, Whose]:
    """Return the place as it is to be remembered now that `text` was found, and whose that is."""
    same_domain = known.domid == domid
    if not known.active:
        if not same_domain and text != known.original and text in known.texts:
            return replace(known, active=True, applied=text, intended=text, domid=domid), Whose.CARRIED
        return replace(known, original=text, applied=text, intended=text, domid=domid), Whose.ORIGINAL
    if text in (known.applied, known.intended) or (not same_domain and text in known.texts):
        return replace(known, applied=text, domid=domid), Whose.OURS
    if text == known.original:
        return replace(known, domid=domid), Whose.ORIGINAL
    return replace(known, original=text, domid=domid), Whose.ADMIN


def intend(place: Place, target: Text, *, wanted: bool) -> Place:
    """Return the place with what is to be made of it; `wanted`: by a limit, else by its end."""
    texts = place.texts
    if wanted and target != place.original and target not in texts:
        texts = (*texts, target)[-MAX_TEXTS:]
    return replace(place, active=wanted or place.active, intended=target, texts=texts)
