# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a limit is told: its `LimitStatus`. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from xenwarden_host.records import LimitState, LimitStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.limits.book import Id
    from xenwarden_host.limits.journal import Want
    from xenwarden_host.limits.kind import Text
    from xenwarden_host.limits.place import Place


def describe(want: Want, places: Mapping[str, Place], state: LimitState, detail: str) -> LimitStatus:
    """Return how a wanted limit stands."""
    active = {name: place for name, place in places.items() if place.active}
    return LimitStatus(
        uuid=want.uuid,
        key=want.key,
        value=want.value,
        original=words({name: place.original for name, place in active.items()}),
        state=state,
        owner=want.owner,
        why=want.why,
        since_unix_s=want.since_unix_s,
        detail=detail,
        set_to=words({name: place.intended for name, place in active.items()}),
        read_back=words({name: place.applied for name, place in active.items()}),
        until_unix_s=want.expires_unix_s,
    )


def lifted(
    id_: Id, last: LimitStatus | None, places: Mapping[str, Place], detail: str, now_unix_s: float
) -> LimitStatus:
    """Return the last word on a limit: as it was told `last`, now lifted."""
    originals = words({name: place.original for name, place in places.items()})
    if last is not None:
        return replace(last, original=originals, state=LimitState.LIFTED, detail=detail)
    why = "left by an earlier run, or carried along by a new domain of the VM"
    return LimitStatus(*id_, 0, originals, LimitState.LIFTED, "xenwarden", why, now_unix_s, detail)


def words(texts: Mapping[str, Text]) -> str | None:
    """Return the texts of all places as one, None where nothing stood at any."""
    if all(text is None for text in texts.values()):
        return None
    if set(texts) == {""}:
        return texts[""]
    return " ".join(f"{name}={'none' if text is None else text}" for name, text in sorted(texts.items()))
