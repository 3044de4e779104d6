# SPDX-License-Identifier: LGPL-2.1-or-later
"""Detection against false alarms as an SVG: each detector a curve, or a point where it has no threshold."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 360, 56, 170, 16, 44
_LOW, _HIGH = 0.01, 100.0  # of the false alarms, on a logarithmic axis; what is below stands at its edge
_COLOURS = ("#b30000", "#08519c", "#238b45", "#6a51a3", "#a6611a")


def _x(false: float) -> float:
    share = math.log(min(max(false, _LOW), _HIGH) / _LOW) / math.log(_HIGH / _LOW)
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(found: float) -> float:
    return _TOP + (1 - found) * (_HEIGHT - _TOP - _BOTTOM)


def svg(curves: Mapping[str, Sequence[tuple[float, float]]], title: str) -> str:
    """Return the picture; the first curve is ours, and drawn on top."""
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">'
    ]
    out.append(f"<title>{escape(title)}</title>")
    out.append('<rect width="100%" height="100%" fill="white"/><g font-size="12">')
    for found in (0, 0.25, 0.5, 0.75, 1):
        y = _y(found)
        out.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        out.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * found:.0f} %</text>')
    for false in (0.01, 0.1, 1, 10, 100):
        x = _x(false)
        out.append(f'<path d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#ddd"/>')
        out.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{false:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    out.append(
        f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">false alarms per VM-day</text>'
        f'<text transform="translate(13 {(_HEIGHT - _BOTTOM + _TOP) / 2}) rotate(-90)" '
        f'text-anchor="middle">attacks that raised an alarm</text>'
    )
    for place, (name, points) in reversed(list(enumerate(curves.items()))):
        colour = _COLOURS[place % len(_COLOURS)]
        at = " ".join(f"{_x(false):.1f},{_y(found):.1f}" for false, found in sorted(points))
        out.append(f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="2"/>')
        size = 4 if place == 0 else 2
        out += [
            f'<circle cx="{_x(false):.1f}" cy="{_y(found):.1f}" r="{size}" fill="{colour}"/>'
            for false, found in points
        ]
        y = _TOP + 14 + 20 * place
        out.append(f'<circle cx="{_WIDTH - _RIGHT + 14}" cy="{y - 4}" r="4" fill="{colour}"/>')
        out.append(f'<text x="{_WIDTH - _RIGHT + 24}" y="{y}">{escape(name)}</text>')
    return "\n".join([*out, "</g></svg>\n"])
