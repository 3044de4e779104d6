# SPDX-License-Identifier: LGPL-2.1-or-later
"""The terminal of `xenwarden top`: draws a view's lines, hands it keys, asks the daemon."""

from __future__ import annotations

import contextlib
import curses
import locale
import os
import time
from typing import TYPE_CHECKING, Any

from xenwarden_host.cli.output import columns
from xenwarden_host.control.client import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenwarden_host.cli.topview import View

_ESCAPE_MS = 25  # a key's sequence comes in one piece; curses would wait a second after a bare escape
_KEYS = {
    curses.KEY_UP: "up", curses.KEY_DOWN: "down", curses.KEY_PPAGE: "pgup", curses.KEY_NPAGE: "pgdn",
    curses.KEY_HOME: "home", curses.KEY_END: "end", curses.KEY_ENTER: "enter",
    "\n": "enter", "\r": "enter", "\x1b": "esc",
    curses.KEY_BACKSPACE: "backspace", "\x7f": "backspace", "\b": "backspace",
}  # fmt: skip
_COLOURS = {"red": curses.COLOR_RED, "yellow": curses.COLOR_YELLOW, "cyan": curses.COLOR_CYAN}


def has_blocks() -> bool:
    """Tell whether the locale can write block elements."""
    locale.setlocale(locale.LC_ALL, "")
    return locale.nl_langinfo(locale.CODESET) == "UTF-8"


def run(view: View, ask: Callable[..., Any], delay_s: float, times: int | None) -> None:
    """Show the view until the user is done, or `times` answers were shown.

    Raises:
        RefusedError: this terminal cannot do it.
    """
    try:
        curses.setupterm()
    except curses.error:
        raise RefusedError(
            f"top cannot use this terminal (TERM={os.environ.get('TERM', '')})", "use: xenwarden top -b"
        ) from None
    curses.set_escdelay(_ESCAPE_MS)
    curses.wrapper(_loop, view, ask, delay_s, times)


def _loop(
    screen: curses.window, view: View, ask: Callable[..., Any], delay_s: float, times: int | None
) -> None:
    styles = _styles()
    next_s = 0.0
    while True:
        if time.monotonic() >= next_s:
            if times == 0:
                return
            _refresh(view, ask)
            next_s = time.monotonic() + delay_s
            times = None if times is None else times - 1
        _draw(screen, view, styles)
        screen.timeout(max(0, round((next_s - time.monotonic()) * 1000)))
        try:
            pressed = screen.get_wch()
        except curses.error:
            continue  # none until it was time to ask again
        mode = view.mode
        try:
            request = view.key(_KEYS.get(pressed, pressed if isinstance(pressed, str) else ""))
        except EOFError:
            return
        if request is not None:
            try:
                view.done(ask(request[0], **request[1]))
            except RefusedError as error:
                view.fail(error.message, refused=True)
        if request is not None or view.mode != mode:
            _refresh(view, ask)


def _refresh(view: View, ask: Callable[..., Any]) -> None:
    do, arguments = view.request()
    try:
        view.take(ask(do, **arguments))
    except RefusedError as error:
        view.fail(error.message)


def _styles() -> dict[str, int]:
    """Return the attributes of each style; the terminal's own colours stay, light or dark."""
    with contextlib.suppress(curses.error):  # a terminal may always show it
        curses.curs_set(0)
    styles = {"": curses.A_NORMAL, "bold": curses.A_BOLD, "reverse": curses.A_REVERSE}
    coloured = curses.has_colors() and "NO_COLOR" not in os.environ
    if coloured:
        curses.use_default_colors()
    for number, (name, colour) in enumerate(_COLOURS.items(), 1):
        if coloured:
            curses.init_pair(number, colour, -1)
        styles[name] = curses.color_pair(number) if coloured else curses.A_BOLD
    return styles


def _draw(screen: curses.window, view: View, styles: dict[str, int]) -> None:
    height, width = screen.getmaxyx()
    screen.erase()
    for y, line in enumerate(view.lines(width, height)):
        x = 0
        for text, style in line:
            try:
                screen.addstr(y, x, text, styles[style])
            except curses.error:
                break  # the last place of the screen: the cursor has nowhere to go
            x += columns(text)
    screen.refresh()
