# SPDX-License-Identifier: LGPL-2.1-or-later
"""One VM as `xenwarden top` shows it: state, limits, signals as sparklines beside what is usual, events."""

from __future__ import annotations

from typing import Any

from xenwarden_host.cli.output import clock_time, printable, short, span, wrap

Line = list[tuple[str, str]]

SPAN_S = 600  # as long as the daemon keeps fine samples
STATE_STYLES = {"contained": "red", "watched": "yellow", "protected": "cyan"}
_BLOCKS, _PLAIN = "▁▂▃▄▅▆▇█", "_.-:=+*#"
_LEAST_SPARK, _MOST_SPARK = 10, 120
_LEAST_TEXT = 24
_FIGURES = 21  # columns of the figures beside a sparkline
_EVENTS = 20
_LEAST_SPAN_S = 10


def sparkline(points: list[tuple[float, float]], width: int, top: float, *, blocks: bool) -> str:
    """Return points (0 to 1 in time, value) as one letter for each step; blank where nothing was measured."""
    marks = _BLOCKS if blocks else _PLAIN
    highest: list[float | None] = [None] * width
    for when, value in points:
        place = min(int(when * width), width - 1)
        highest[place] = max(value, highest[place] or 0.0)
    steps = len(marks) - 1
    return "".join(
        " " if value is None else marks[min(steps, round(steps * value / top)) if top > 0 else 0]
        for value in highest
    )


def detail_lines(data: dict[str, Any], width: int, *, blocks: bool) -> list[Line]:
    """Return the lines of what `report` answered for one VM."""
    vm = data["vm"]
    where = "gone" if vm["domid"] is None else f"ID {vm['domid']}, {vm['type']}, level {vm['level']}"
    lines: list[Line] = [
        [
            (printable(vm["name"]), "bold"),
            (f"  {where}  ", ""),
            (vm["state"], STATE_STYLES.get(vm["state"], "")),
        ]
    ]
    if vm["verdict"]:
        also = ", and a victim too" if vm["also_victim"] else ""
        lines.append([(f"Verdict  {vm['verdict']}{also}", "")])
    if vm["why"]:
        lines += _wrapped([("Why      ", "")], vm["why"], width)
    agent = vm.get("agent")
    if agent:
        age_s = agent["age_s"]
        last = "no report was understood yet" if age_s is None else f"last report {span(age_s)} ago"
        lines.append([(f"Agent    {agent['state']}, {last}", "")])
    if vm["limits_now"]:
        lines += [[], [("Limits", "bold")]]
        for row in vm["limits_now"]:
            lines += _limit(row, width)
    # Of a VM or a daemon that is new there is less: it is drawn in the whole width all the same.
    first_s = min((sample["unix_s"] for sample in data["samples"]), default=data["unix_s"])
    span_s = min(max(data["unix_s"] - first_s, _LEAST_SPAN_S), SPAN_S)
    signals = _signals(data, span_s, width, blocks=blocks)
    if signals:
        lines += [[], [(f"Signals, the last {span(span_s)}, beside what is usual up to", "bold")], *signals]
    if data["events"]:
        lines += [[], [("Events, the newest first", "bold")]]
        for event in reversed(data["events"][-_EVENTS:]):
            lines += _wrapped([(f"{clock_time(event['unix_s'])}  ", "")], event["text"], width)
    return lines


def _wrapped(head: Line, text: str, width: int) -> list[Line]:
    """Return a text after its head, in as many lines as it needs."""
    indent = sum(len(part) for part, _style in head)
    first, *others = wrap(printable(text), max(width - indent, _LEAST_TEXT))
    return [[*head, (first, "")], *([(" " * indent + more, "")] for more in others)]


def _limit(row: dict[str, Any], width: int) -> list[Line]:
    until = "" if row["until_unix_s"] is None else f" until {clock_time(row['until_unix_s'])}"
    text = f"(before: {row['original'] or 'none'}) by {row['owner']}{until}: {row['why']}"
    style = "" if row["state"] == "set" else "red"
    state = "" if row["state"] == "set" else f" {row['state']}"
    return _wrapped([(f"{row['kind']} {row['value']}", "bold"), (f"{state} ", style)], text, width)


def _signals(data: dict[str, Any], span_s: float, width: int, *, blocks: bool) -> list[Line]:
    """Return a line for each signal that was ever above 0; what is far above the usual stands first."""
    points: dict[str, list[tuple[float, float]]] = {}
    for sample in data["samples"]:
        when = (sample["unix_s"] - data["unix_s"] + span_s) / span_s
        for name, value in sample["signals"].items():
            points.setdefault(name, []).append((min(max(when, 0.0), 1.0), value))
    known = data["vm"]["signals"]
    rows = []
    for name, seen in points.items():
        if name not in known or known[name]["unit"] == "s":
            continue  # an age only rises
        usual, top = known[name]["usual"] or 0.0, max(value for _when, value in seen)
        scale = 100.0 if known[name]["unit"] == "%" else max(top, usual)
        rows.append((-top / usual if usual else 0.0, name, seen, scale))
    rows.sort(key=lambda row: (row[0], row[1]))
    wide = max((len(name) for _rank, name, *_ in rows), default=0)
    # Fewer steps than samples, which come a little early and late: no step without one.
    steps = len(data["samples"]) * 9 // 10
    room = max(min(width - wide - _FIGURES, steps, _MOST_SPARK), _LEAST_SPARK)
    lines = []
    for _rank, name, seen, top in rows:
        signal = known[name]
        value, usual = signal["value"], signal["usual"]
        over = value is not None and usual is not None and value > usual
        style = "red" if over else ""
        figures = f" {short(value):>5} / {short(usual):<5} {signal['unit']}"
        line = sparkline(seen, room, top, blocks=blocks)
        lines.append([(name.ljust(wide + 1), ""), (line, style), (figures, style)])
    return lines
