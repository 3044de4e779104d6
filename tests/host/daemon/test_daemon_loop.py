# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon's loop over descriptors and timers."""

from __future__ import annotations

import os

from xenwarden_host.daemon.clock import SystemClock
from xenwarden_host.daemon.loop import READ, Loop


def readable() -> int:
    """Return a descriptor that is readable."""
    reader, writer = os.pipe()
    os.write(writer, b"x")
    os.close(writer)
    return reader


def test_event_of_a_descriptor_that_was_closed_is_not_given_to_the_next_of_its_number() -> None:
    loop = Loop(SystemClock())
    first, second, other = readable(), readable(), readable()
    called: list[str] = []

    def close_the_other(mine: int, its: int) -> None:
        """Close a client, and take another one in, which gets its number."""
        called.append("closes")
        loop.unwatch(mine)
        loop.unwatch(its)
        os.dup2(other, its)
        loop.watch(its, READ, lambda _events: called.append("new"))

    loop.watch(first, READ, lambda _events: close_the_other(first, second))
    loop.watch(second, READ, lambda _events: close_the_other(second, first))
    loop.run_once(0)
    assert called == ["closes"]
    loop.run_once(0)
    assert called == ["closes", "new"]
    loop.close()
    for fd in (first, second, other):
        os.close(fd)
