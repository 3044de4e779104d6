# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page of `xenwarden report`: one file, nothing loaded from elsewhere, no script. No I/O here.

Names, reasons and figures come from guests: every text goes through `_text`, and the page forbids itself
to load or run anything, should one ever slip by.
"""

from __future__ import annotations

import html
import math
import time
from typing import TYPE_CHECKING, Any

from xenwarden_channel.signals import SIGNALS
from xenwarden_host.cli import timeline
from xenwarden_host.cli.output import figure, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_MAX_PLOTS = 12
_WIDTH, _LEFT, _RIGHT = 960.0, 96.0, 12.0
_LANE, _PLOT = 24.0, 96.0
_HALF_LABEL = 27.0  # of a time at a tick
_TICKS_S = (
    1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 604800, 2592000, 31536000,
)  # fmt: skip
_GAP_S = 70.0  # without a sample for longer than this a line is broken: two coarse steps
_SOURCES = {"vsem": "as its agent says", "vrem": "as its agent says", "hrem": "counted by dom0"}

_WORD = "What an agent says is the VM's own word: it can incriminate that VM only."
_HEAD = """<!DOCTYPE html>
<html lang='en'><head><meta charset='utf-8'>
<meta http-equiv='Content-Security-Policy' content="default-src 'none'; style-src 'unsafe-inline'">
<meta name='viewport' content='width=device-width, initial-scale=1'>"""
_STYLE = """
:root { --fg:#1c2430; --bg:#fff; --soft:#5b6675; --rule:#dde2e8; --card:#f6f8fa; --value:#1f5fbf;
  --usual:#2e8b57; --limit:#c77700; --bad:#c0392b; --watched:#b8860b; --good:#2e8b57; --victim:#0e7c86;
  --ink:#fff; color-scheme: light dark }
@media (prefers-color-scheme: dark) { :root { --fg:#e4e8ee; --bg:#14181e; --soft:#9aa5b4; --rule:#333b46;
  --card:#1c222a; --value:#6ea8fe; --usual:#5cc08a; --limit:#f0a93b; --bad:#ff7b6b; --watched:#e0b84a;
  --good:#5cc08a; --victim:#4fc3cd; --ink:#14181e } }
@media print { :root { --fg:#000; --bg:#fff; --soft:#444; --rule:#bbb; --card:#fff; --value:#1f5fbf;
  --usual:#2e8b57; --limit:#c77700; --bad:#c0392b; --watched:#b8860b; --good:#2e8b57; --victim:#0e7c86;
  --ink:#fff } body { font-size:10pt; max-width:none; padding:0 } figure, li, tr, h2 { break-inside:avoid }
  h2 { break-after:avoid } * { print-color-adjust:exact; -webkit-print-color-adjust:exact } }
* { box-sizing:border-box }
body { margin:0 auto; padding:2rem 1.5rem; max-width:64rem; background:var(--bg); color:var(--fg);
  font:15px/1.5 system-ui, "DejaVu Sans", sans-serif; overflow-wrap:anywhere }
h1 { margin:0 0 .2rem; font-size:1.7rem } h2 { margin:2rem 0 .6rem; font-size:1.15rem }
.soft, figcaption, th { color:var(--soft) } .soft { font-size:.9em }
.pill { display:inline-block; padding:0 .6em; border:1px solid; border-radius:1em; font-size:.55em;
  vertical-align:middle; font-weight:600 }
.contained, .attacker { color:var(--bad) } .watched { color:var(--watched) }
.normal, .neither { color:var(--good) } .protected, .victim { color:var(--victim) }
.why { border-left:4px solid var(--rule); padding:.3rem 0 .3rem 1rem; font-size:1.05rem }
figure { margin:0 0 1.1rem } figcaption { font-size:.9em } figcaption b { color:var(--fg) }
svg { display:block; width:100%; height:auto; overflow:visible }
svg text { font:11px system-ui, "DejaVu Sans", sans-serif; fill:var(--soft) }
svg .lane { fill:var(--fg) } svg .grid { stroke:var(--rule) } svg .frame { fill:var(--card) }
svg .in { fill:var(--ink); font-weight:600 } svg .in.normal, svg .in.level1 { fill:var(--fg) }
svg rect.watched { fill:var(--watched) }
svg rect.contained { fill:var(--bad) } svg rect.normal { fill:var(--good); opacity:.45 }
svg rect.protected { fill:var(--victim) } svg rect.level1 { fill:var(--soft); opacity:.4 }
svg rect.level2, svg rect.limit { fill:var(--limit) } svg rect.level2 { fill:var(--value) }
svg .held { fill:var(--limit); opacity:.13 } svg .usual { fill:var(--usual); opacity:.16 }
svg .upto { stroke:var(--usual); stroke-dasharray:5 3; fill:none } svg .value { stroke:var(--value);
  stroke-width:1.6; fill:none; stroke-linejoin:round } svg circle.value { fill:var(--value); stroke:none }
svg circle.proof { fill:var(--bad) } svg .verdict { stroke:var(--bad); stroke-width:1.4 }
svg text.verdict { fill:var(--bad); stroke:none; font-weight:600 }
table { border-collapse:collapse; width:100%; font-size:.9em } th { text-align:left; font-weight:600 }
th, td { padding:.25rem .8rem .25rem 0; border-bottom:1px solid var(--rule); vertical-align:top }
td.n, th.n { text-align:right; font-variant-numeric:tabular-nums; white-space:nowrap }
td.t, th { white-space:nowrap }
@media (max-width:45rem) { body { padding:1rem } td.t, td.n, th, th.n { white-space:normal }
  th, td { padding-right:.4rem } }
.key span { display:inline-block; width:1.6em; height:.8em; margin:0 .3em 0 1em; vertical-align:middle }
"""


def page(data: Mapping[str, Any], *, whole: bool) -> str:
    """Return the page for an answer to `report`; `whole`: of all the time that was asked for."""
    begin_s, end_s = timeline.window(data, whole=whole)
    vm, scale = data["vm"], _Scale(begin_s, end_s)
    pills = "".join(
        f" <span class='pill {_text(word)}'>{_text(word)}</span>"
        for word in (vm["state"], vm["verdict"])
        if word
    )
    kind = "gone" if vm["domid"] is None else f"{vm['type']}, domain {vm['domid']}"
    what = f"{kind}, {vm['uuid']}, on {data['host']}"
    period = f"{_when(begin_s, full=True)} to {_when(end_s, full=True)} {time.strftime('%Z')}"
    why = (vm["why"] or "Nothing unusual was decided of this VM.") + (
        " It is a victim too." if vm["also_victim"] else ""
    )
    made = f"Made by xenwarden {data['version']} on {_when(data['unix_s'], full=True)}."
    parts = [
        f"<title>{_text(vm['name'])}: report of xenwarden</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_text(vm['name'])}{pills}</h1>",
        f"<div class='soft'>{_text(what)}<br>{_text(period)}</div>",
        f"<p class='why'>{_text(why)}</p>",
        *_evidence(vm),
        "<h2>What held when</h2>",
        _lanes(data, scale),
        *_plots(data, scale),
        *_limits(vm),
        *_events(data, begin_s),
        *_signals(vm),
        f"<p class='soft'>{_WORD} {_text(made)}</p>",
    ]
    return "\n".join((_HEAD, *parts, "</body></html>\n"))


def _text(value: object) -> str:
    """Return a text as HTML: nothing in it can be markup, end an attribute or steer a terminal."""
    return html.escape(printable(str(value)), quote=True)


def _when(unix_s: float, *, full: bool = False) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S" if full else "%H:%M:%S", time.localtime(unix_s))


class _Scale:
    """Times to the right: where a moment is, and where ticks are."""

    def __init__(self, begin_s: float, end_s: float) -> None:
        self.begin_s, self.end_s = begin_s, end_s

    def x(self, unix_s: float) -> float:
        inside = min(max(unix_s, self.begin_s), self.end_s)
        share = (inside - self.begin_s) / (self.end_s - self.begin_s)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def ticks(self) -> list[tuple[float, str]]:
        span_s = self.end_s - self.begin_s
        step = next((step for step in _TICKS_S if span_s / step <= 8), _TICKS_S[-1])
        form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86400 else "%m-%d"
        shift_s = time.localtime(self.begin_s).tm_gmtoff  # ticks at whole hours of local time
        first = math.ceil((self.begin_s + shift_s) / step) * step - shift_s
        count = int((self.end_s - first) // step) + 1
        return [
            (self.x(at_s), time.strftime(form, time.localtime(at_s)))
            for at_s in (first + number * step for number in range(count))
        ]

    def grid(self, height: float) -> list[str]:
        lines = []
        for x, label in self.ticks():
            lines.append(f"<line class='grid' x1='{x}' x2='{x}' y1='0' y2='{height}'/>")
            middle = min(max(x, _LEFT + 20), _WIDTH - _HALF_LABEL)  # beside the axis' own labels
            lines.append(f"<text x='{middle}' y='{height + 13}' text-anchor='middle'>{_text(label)}</text>")
        return lines

    def verdicts(self, data: Mapping[str, Any], height: float, *, named: bool) -> list[str]:
        out = []
        for unix_s, verdict in timeline.verdicts(data):
            if unix_s >= self.begin_s:
                x = self.x(unix_s)
                out.append(f"<line class='verdict' x1='{x}' x2='{x}' y1='0' y2='{height}'/>")
                if named:
                    at = f"x='{x + 4}'" if x < _WIDTH * 0.9 else f"x='{x - 4}' text-anchor='end'"
                    out.append(f"<text class='verdict' {at} y='-4'>{_text(verdict)}</text>")
        return out


def _svg(height: float, parts: Iterable[str], label: str) -> str:
    inner = "".join(parts)
    return (
        f"<svg viewBox='0 -16 {_WIDTH:g} {height + 34:g}' role='img' aria-label='{_text(label)}'>"
        f"<rect class='frame' x='{_LEFT}' y='0' width='{_WIDTH - _LEFT - _RIGHT:g}' height='{height:g}'/>"
        f"{inner}</svg>"
    )


def _lanes(data: Mapping[str, Any], scale: _Scale) -> str:
    begin_s, end_s = scale.begin_s, scale.end_s
    lanes = {"state": timeline.states(data, begin_s, end_s), "level": timeline.levels(data, begin_s, end_s)}
    lanes.update(timeline.limits(data, begin_s, end_s))
    height = _LANE * len(lanes)
    parts = scale.grid(height)
    for number, (name, bars) in enumerate(lanes.items()):
        y = number * _LANE
        parts.append(
            f"<text class='lane' x='{_LEFT - 8}' y='{y + 16}' text-anchor='end'>{_text(name)}</text>"
        )
        for bar in bars:
            x, width = scale.x(bar.begin_s), scale.x(bar.end_s) - scale.x(bar.begin_s)
            title = f"{name} {bar.text}, {_when(bar.begin_s)} to {_when(bar.end_s)}"
            parts.append(
                f"<rect class='{_text(bar.kind)}' x='{x}' y='{y + 3}' width='{max(width, 1.5):.1f}' "
                f"height='{_LANE - 6}' rx='2'><title>{_text(title)}</title></rect>"
            )
            if width > 7.5 * len(bar.text) + 8:
                parts.append(
                    f"<text class='in {_text(bar.kind)}' x='{x + 5}' y='{y + 16}'>{_text(bar.text)}</text>"
                )
    parts += scale.verdicts(data, height, named=True)
    return f"<figure>{_svg(height, parts, 'states, levels and limits over time')}</figure>"


def _plots(data: Mapping[str, Any], scale: _Scale) -> list[str]:
    names = timeline.notable(data, _MAX_PLOTS)
    if not names:
        return ["<p class='soft'>No signals are kept of this time: they are, in memory, for two hours.</p>"]
    held = [bar for bars in timeline.limits(data, scale.begin_s, scale.end_s).values() for bar in bars]
    key = (
        "<p class='soft key'><span style='background:var(--value)'></span>value"
        "<span style='background:var(--usual);opacity:.3'></span>usual"
        "<span style='background:var(--limit);opacity:.3'></span>limited"
        "<span style='background:var(--bad)'></span>verdict; dots: evidence</p>"
    )
    return ["<h2>Signals</h2>", key, *(_plot(name, data, scale, held) for name in names)]


def _plot(name: str, data: Mapping[str, Any], scale: _Scale, held: Sequence[timeline.Bar]) -> str:
    points = [
        (sample["unix_s"], sample["signals"][name])
        for sample in data["samples"]
        if name in sample["signals"] and sample["unix_s"] >= scale.begin_s
    ]
    proofs = [
        (unix_s, item)
        for unix_s, item in timeline.evidence(data)
        if item["signal"] == name and unix_s >= scale.begin_s
    ]
    usual = data["vm"]["signals"].get(name, {}).get("usual")
    peak = max(
        [value for _unix_s, value in points] + [item["value"] for _unix_s, item in proofs], default=0.0
    )
    top = _round_up(max(peak, usual if usual is not None and usual <= 2 * peak else 0.0))

    def y(value: float) -> float:
        return round(_PLOT * (1 - min(value / top, 1.0)), 1)

    parts = []
    width = _WIDTH - _LEFT - _RIGHT
    if usual is not None and usual <= top:
        band = f"x='{_LEFT}' y='{y(usual)}' width='{width:g}' height='{_PLOT - y(usual):.1f}'"
        parts.append(f"<rect class='usual' {band}/><path class='upto' d='M{_LEFT} {y(usual)}h{width:g}'/>")
    for bar in held:
        x = scale.x(bar.begin_s)
        parts.append(
            f"<rect class='held' x='{x}' y='0' width='{scale.x(bar.end_s) - x:.1f}' height='{_PLOT}'/>"
        )
    parts += scale.grid(_PLOT)
    for value in (0.0, top / 2, top):
        parts.append(
            f"<text x='{_LEFT - 8}' y='{y(value) + 4}' text-anchor='end'>{_text(figure(value))}</text>"
        )
    for run in _runs(points):
        if len(run) == 1:
            parts.append(f"<circle class='value' cx='{scale.x(run[0][0])}' cy='{y(run[0][1])}' r='1.6'/>")
        else:
            path = "L".join(f"{scale.x(unix_s)} {y(value)}" for unix_s, value in run)
            parts.append(f"<path class='value' d='M{path}'/>")
    parts += scale.verdicts(data, _PLOT, named=False)
    for unix_s, item in proofs:
        parts.append(
            f"<circle class='proof' cx='{scale.x(unix_s)}' cy='{y(item['value'])}' r='3.5'>"
            f"<title>{_text(item['text'])}</title></circle>"
        )
    source, unit, meaning = SIGNALS.get(name, ("", "", ""))
    told = f"usual up to {figure(usual)} {unit}" if usual is not None else "nothing known of what is usual"
    above = " (above this plot)" if usual is not None and usual > top else ""
    told = f"{meaning}, {unit}, {_SOURCES.get(source, '')}; {told}{above}"
    caption = f"<figcaption><b>{_text(name)}</b> {_text(told)}</figcaption>"
    return f"<figure>{caption}{_svg(_PLOT, parts, name)}</figure>"


def _runs(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Return the points in stretches without a gap."""
    out: list[list[tuple[float, float]]] = []
    for point in points:
        if out and point[0] - out[-1][-1][0] <= _GAP_S:
            out[-1].append(point)
        else:
            out.append([point])
    return out


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 2.5, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1.0, 2.0, 2.5, 5.0, 10.0) if step * power >= value)


def _evidence(vm: Mapping[str, Any]) -> list[str]:
    if not vm["evidence"]:
        return []
    items = "".join(
        f"<li>{_text(item['text'])} <span class='soft'>({_text(item['signal'])}, "
        f"{_text(_SOURCES.get(item['source'], item['source']))}; rule {_text(item['rule'])})</span></li>"
        for item in vm["evidence"]
    )
    return ["<h2>Evidence</h2>", f"<ul>{items}</ul>"]


def _limits(vm: Mapping[str, Any]) -> list[str]:
    if not vm["limits_now"]:
        return []
    return [
        "<h2>Limits in force</h2>",
        _table(
            ("Limit", "Value", "Before", "State", "Since", "By", "Why"),
            [
                (
                    limit["kind"],
                    f"{limit['value']:,}",
                    "none" if limit["original"] is None else limit["original"],
                    f"{limit['state']} {limit['detail']}".strip(),
                    _when(limit["since_unix_s"]),
                    limit["owner"],
                    limit["why"],
                )
                for limit in vm["limits_now"]
            ],
            "tttttt ",
        ),
    ]


def _events(data: Mapping[str, Any], begin_s: float) -> list[str]:
    rows = [
        (_when(event["unix_s"], full=True), event["who"], event["text"])
        for event in data["events"]
        if event["unix_s"] >= begin_s
    ]
    return (
        ["<h2>What happened, and who did it</h2>", _table(("Time", "Who", "What"), rows, "tt ")]
        if rows
        else []
    )


def _signals(vm: Mapping[str, Any]) -> list[str]:
    rows = [
        (name, figure(item["value"]), figure(item["usual"]), item["unit"], _SOURCES.get(item["source"], ""))
        for name, item in vm["signals"].items()
        if item["value"] is not None
    ]
    if not rows:
        return []
    return ["<h2>All signals now</h2>", _table(("Signal", "Value", "Usual up to", "Unit", ""), rows, " nn  ")]


def _table(header: Sequence[str], rows: Iterable[Sequence[object]], classes: str) -> str:
    """Return a table; `classes` has a letter for each column: n a number, t not to be broken."""

    def row(tag: str, cells: Sequence[object]) -> str:
        inner = (
            f"<{tag}{f' class={kind!r}' if kind.strip() else ''}>{_text(cell)}</{tag}>"
            for kind, cell in zip(classes, cells, strict=True)
        )
        return f"<tr>{''.join(inner)}</tr>"

    body = "".join(row("td", cells) for cells in rows)
    return f"<table><thead>{row('th', header)}</thead><tbody>{body}</tbody></table>"
