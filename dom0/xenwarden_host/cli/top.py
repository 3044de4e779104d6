# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden top`: live on a terminal, else (or with -b) as plain text or JSON."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from xenwarden_host.cli.parser import UsageError
from xenwarden_host.cli.topcolumns import NAMES, arrange, batch
from xenwarden_host.cli.topview import View
from xenwarden_host.control.client import SOCKET_PATH, ControlClient, RefusedError
from xenwarden_host.control.lean import dumps

if TYPE_CHECKING:
    from xenwarden_host.cli.parser import Parsed

_DELAY_S = 2.0
_LEAST_DELAY_S, _MOST_DELAY_S = 0.2, 86400.0


def top(parsed: Parsed) -> None:
    """Show all VMs, again and again.

    Raises:
        UsageError: an option's value is none.
        RefusedError: the daemon does not answer, or this is no terminal.
    """
    options = parsed.options
    delay_s, times = _delay(parsed), _times(parsed)
    sort = options.get("sort", "state")
    if sort not in NAMES:
        raise UsageError(f"top sorts by {', '.join(NAMES)}, not by {sort!r}", parsed.verb)
    text = options.get("filter", "")

    def ask(do: str, **arguments: Any) -> Any:
        # A connection for each: the daemon closes those that are idle, and may be started anew.
        client = ControlClient(options.get("socket", SOCKET_PATH))
        try:
            return client.ask(do, **arguments)
        finally:
            client.close()

    if "batch" in options or "json" in options:
        while times != 0:
            answer = ask("top")
            answer["vms"] = arrange(answer["vms"], sort, text)
            print(dumps(answer) if "json" in options else batch(answer["vms"]) + "\n", flush=True)
            times = None if times is None else times - 1
            if times != 0:
                time.sleep(delay_s)
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise RefusedError("top needs a terminal", "for a file or a pipe use: xenwarden top -b")
    from xenwarden_host.cli import topscreen  # noqa: PLC0415  batch mode needs no curses

    topscreen.run(View(sort=sort, text=text, blocks=topscreen.has_blocks()), ask, delay_s, times)


def _delay(parsed: Parsed) -> float:
    try:
        delay_s = float(parsed.options.get("delay", _DELAY_S))
    except ValueError:
        delay_s = 0.0
    if not _LEAST_DELAY_S <= delay_s <= _MOST_DELAY_S:
        raise UsageError(f"--delay needs {_LEAST_DELAY_S:g} to {_MOST_DELAY_S:g} seconds", parsed.verb)
    return delay_s


def _times(parsed: Parsed) -> int | None:
    text = parsed.options.get("iterations")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise UsageError("--iterations needs a number from 1", parsed.verb)
    return int(text)
