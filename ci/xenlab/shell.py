# SPDX-License-Identifier: LGPL-2.1-or-later
"""An interactive shell in dom0, over the lab's line."""

from __future__ import annotations

import base64
import contextlib
import os
import select
import sys
import termios
import threading
import tty
from typing import TYPE_CHECKING, Any

from xenlab import progress
from xenlab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenlab.link import Link


def interactive(link: Link) -> int:
    """Connect this terminal to a new shell in dom0 until that ends; return its exit status."""
    progress.say("a shell in dom0 (`in-guest NAME COMMAND` runs a command in a guest); exit ends it")
    done = threading.Event()

    def show(message: dict[str, Any]) -> None:
        if message.get("event") == "shell":
            os.write(1, base64.b64decode(message["data"]))

    link.on_event = show
    number = link.send("shell")
    status: list[int] = []

    def wait() -> None:
        with contextlib.suppress(LabError):
            status.append(int(link.wait(number, 86_400, "shell")["status"]))
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    with _raw():
        while not done.is_set():
            if not select.select([0], [], [], 0.1)[0]:
                continue
            keys = os.read(0, 1024)
            if not keys:  # end of a script on standard input
                link.ask("keys", shell=number, data=base64.b64encode(b"\x04").decode())
                done.wait(60)
                break
            link.ask("keys", shell=number, data=base64.b64encode(keys).decode())
    return status[0] if status else 1


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    saved = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)
