# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare what a scenario expects with what came true. Pure; the answer is a list of sentences."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from xenlab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xenlab.moments import Outcome

_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
_VERDICTS = {
    "none": (None,),
    "unconvicted": (None, "neither"),
}


def failures(expect: Mapping[str, Any], outcome: Outcome, patience: float = 1.0) -> list[str]:
    """Return one sentence for each expectation that did not come true; `patience` multiplies deadlines."""
    out: list[str] = []
    start = outcome.moment(expect["since"]) if "since" in expect else 0.0
    if start is None:
        return [f"the step {expect['since']} was never reached"]
    for name, wanted in expect.get("guests", {}).items():
        guest = outcome.guests.get(name)
        if guest is None:
            out.append(f"{name} was not there at the end")
            continue
        out += [f"{name}: {text}" for text in _guest(wanted, guest, start, patience)]
        if wanted.get("restored"):
            out += [f"{name}: {text}" for text in _not_restored(outcome, name)]
    for figure in expect.get("figures", ()):
        out += _figure(figure, outcome)
    return out


def _guest(
    wanted: Mapping[str, Any], guest: Mapping[str, Any], start: float, patience: float
) -> Iterable[str]:
    verdict = guest["verdict"]
    if "verdict" in wanted and verdict not in _VERDICTS.get(wanted["verdict"], (wanted["verdict"],)):
        yield f"verdict is {verdict or 'none'}, expected {wanted['verdict']}"
    if "also_victim" in wanted and bool(guest["also_victim"]) != wanted["also_victim"]:
        yield f"also_victim is {guest['also_victim']}, expected {wanted['also_victim']}"
    if "verdict_within" in wanted:
        yield from _within("verdict", guest["verdict_t_s"], start, wanted["verdict_within"] * patience)
    kinds = sorted({limit["kind"] for limit in guest["limits"]})
    found = ", ".join(kinds) or "none"
    for kind in wanted.get("limits", ()):
        if not any(_matches(k, kind) for k in kinds):
            yield f"no limit of kind {kind} was set; limits set: {found}"
    for kind in wanted.get("no_limits", ()):
        if any(_matches(k, kind) for k in kinds):
            yield f"a limit of kind {kind} was set, expected none; limits set: {found}"
    if "limited" in wanted and bool(kinds) != wanted["limited"]:
        yield f"limits set: {found}, expected {'some' if wanted['limited'] else 'none'}"
    if "limits_within" in wanted:
        first = min((limit["t_s"] for limit in guest["limits"]), default=None)
        yield from _within("first limit", first, start, wanted["limits_within"] * patience)
    if "limited_at_most" in wanted:
        yield from _limited_at_most(guest, wanted["limited_at_most"] * patience)
    if "raised_at_most" in wanted:
        yield from _raised_at_most(guest["levels"], wanted["raised_at_most"] * patience)
    if "level2" in wanted:
        reached = any(level["level"] == 2 for level in guest["levels"])
        if reached != wanted["level2"]:
            yield f"level 2 was {'' if reached else 'never '}reached, expected otherwise"
    if "released" in wanted and (guest["released_t_s"] is not None) != wanted["released"]:
        yield f"was {'not ' if wanted['released'] else ''}released by the end, expected otherwise"


def _within(what: str, t_s: float | None, start: float, seconds: float) -> Iterable[str]:
    if t_s is None:
        yield f"{what} never came, expected within {seconds:g} s"
    elif t_s - start > seconds:
        yield f"{what} came after {t_s - start:.1f} s, expected within {seconds:g} s"


def _limited_at_most(guest: Mapping[str, Any], seconds: float) -> Iterable[str]:
    first = min((limit["t_s"] for limit in guest["limits"]), default=None)
    if first is None:
        return
    if guest["released_t_s"] is None:
        yield f"limits were never lifted, expected within {seconds:g} s"
    elif guest["released_t_s"] - first > seconds:
        yield f"was limited for {guest['released_t_s'] - first:.1f} s, expected at most {seconds:g} s"


def _raised_at_most(levels: Iterable[Mapping[str, Any]], seconds: float) -> Iterable[str]:
    since = None
    for level in levels:
        if level["level"] == 2:
            since = level["t_s"] if since is None else since
        elif since is not None:
            if level["t_s"] - since > seconds:
                yield f"was at level 2 for {level['t_s'] - since:.1f} s, expected at most {seconds:g} s"
            since = None
    if since is not None:
        yield f"is at level 2 since t={since:.1f}, expected for at most {seconds:g} s"


def _matches(kind: str, wanted: str) -> bool:
    return kind == wanted or kind.startswith(f"{wanted}/")


def _not_restored(outcome: Outcome, name: str) -> Iterable[str]:
    before, after = outcome.before.get(name, {}), outcome.after.get(name, {})
    for what in sorted({*before, *after}):
        if before.get(what) != after.get(what):
            now, then = after.get(what, "gone"), before.get(what, "not there")
            yield f"{what} is {now!r} at the end, was {then!r} at first"


def _figure(figure: Mapping[str, Any], outcome: Outcome) -> list[str]:
    name = figure.get("name") or f"{figure['left']['take']} of {figure['left']['of']}"
    try:
        left = outcome.figure(figure["left"])
        right = (
            outcome.figure(figure["right"]) if isinstance(figure["right"], dict) else float(figure["right"])
        )
    except LabError as e:
        return [f"{name}: {e.message}"]
    if _COMPARE[figure["is"]](left, right):
        return []
    return [f"{name}: {left:g} is not {figure['is']} {right:g}"]
