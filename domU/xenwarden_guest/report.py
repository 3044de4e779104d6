# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compose what goes into XenStore, and decide whether it is worth a write; pure."""

from __future__ import annotations

from xenwarden_channel.messages import MessageError, encode
from xenwarden_guest import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_guest.level import State
    from xenwarden_guest.vrem.signals import Load

# A level 1 report is written when a signal moved by this share of its limit (of itself, without limit).
_CHANGED = 0.25
# Below these a change says nothing: noise of an idle VM would otherwise be written for ever.
_FLOOR = {"bps": 100_000.0, "pps": 20.0, "ps": 20.0, "rps": 20.0, "pct": 5.0, "share": 0.2}
_FLOOR_OTHER = 3.0
_MAX_LIST = 256  # a value's limit in the channel


def changed(old: Mapping[str, float], new: Mapping[str, float], history: Mapping[str, float]) -> bool:
    """Say whether the signals differ enough for a write: one came, went, or moved by more than noise."""
    if old.keys() != new.keys():
        return True
    for name, value in new.items():
        before = old[name]
        if value == before:
            continue
        floor = _FLOOR.get(name.rpartition("_")[2], _FLOOR_OTHER)
        reference = history.get(name) or max(value, before)
        if abs(value - before) > max(floor, _CHANGED * reference):
            return True
    return False


def report(
    seq: int,
    own: Mapping[str, str | float],
    *,
    state: State,
    signals: Mapping[str, float],
    load: Load,
    missing: list[str],
) -> bytes:
    """Return the report message; `own` holds boot, interval and what the agent costs."""
    fields: dict[str, str | float] = {"level": float(state.level), "why": state.why}
    fields["over"] = _list(state.over)
    fields["missing"] = _list(missing)
    fields.update(own)
    fields["agent"] = __version__
    fields["near_max"] = float(load.near_max)
    fields["near_max_of"] = float(load.near_max_of)
    fields.update(signals)
    return encode("report", seq, fields)


def detail(seq: int, dests: list[str], sources: list[str]) -> bytes:
    """Return the level 2 detail message: as many of the top peers as one value holds."""
    while True:
        fields: dict[str, str | float] = {f"d{at}": text for at, text in enumerate(dests)}
        fields.update({f"s{at}": text for at, text in enumerate(sources)})
        try:
            return encode("detail", seq, fields)
        except MessageError:
            if not dests and not sources:
                raise
            dests, sources = dests[:-1], sources[:-1]


def answer(seq: int, ask_id: str, load: Load, signals: Mapping[str, float]) -> bytes:
    """Return VREM's answer to the question `ask_id`."""
    fields: dict[str, str | float] = {"id": ask_id}
    if load.load_pct is not None:
        fields["load_pct"] = load.load_pct
    fields["near_max"] = float(load.near_max)
    fields["near_max_of"] = float(load.near_max_of)
    for name in ("cpu_pct", "mem_used_pct", "steal_pct"):
        if name in signals:
            fields[name] = signals[name]
    return encode("answer", seq, fields)


def _list(names: tuple[str, ...] | list[str]) -> str:
    text = ",".join(names)
    while len(text) > _MAX_LIST:
        text = text.rpartition(",")[0]
    return text
