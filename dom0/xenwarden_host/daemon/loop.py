# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small loop over file descriptors and timers. One thread; callbacks are quick."""

from __future__ import annotations

import heapq
import itertools
import logging
import selectors
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenwarden_host.protocols import Clock

log = logging.getLogger("xenwarden.loop")

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class Loop:
    """Call back when a descriptor is ready or a time has come. A callback that raises is logged, no more."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._stopping = False

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(events)` while `fd` is ready for one of `events`; again with others replaces it."""
        if fd in self._selector.get_map():
            self._selector.modify(fd, events, callback)
        else:
            self._selector.register(fd, events, callback)

    def unwatch(self, fd: int) -> None:
        """Stop watching `fd`; nothing happens where it is not watched."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def at(self, when_s: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, at monotonic time `when_s` or soon after."""
        heapq.heappush(self._timers, (when_s, next(self._order), callback))

    def stop(self) -> None:
        """Have `run` return after the callbacks that are due now."""
        self._stopping = True

    def run(self) -> None:
        """Run until `stop`."""
        while not self._stopping:
            self.run_once()

    def run_once(self, max_wait_s: float | None = None) -> None:
        """Wait for what comes next, at most `max_wait_s`, and do it."""
        wait_s = max_wait_s
        if self._timers:
            until_s = max(0.0, self._timers[0][0] - self._clock.monotonic())
            wait_s = until_s if wait_s is None else min(wait_s, until_s)
        for key, events in self._selector.select(wait_s):
            # An earlier callback of this round may have closed this one, and its number be another's by now.
            if self._selector.get_map().get(key.fd) is key:
                self._call(key.data, events)
                self._call_due()  # many clients at once must not hold up a tick
        self._call_due()

    def _call_due(self) -> None:
        now_s = self._clock.monotonic()
        due = []
        while self._timers and self._timers[0][0] <= now_s:
            due.append(heapq.heappop(self._timers)[2])
        for callback in due:
            self._call(callback)

    def close(self) -> None:
        """Free the selector."""
        self._selector.close()

    @staticmethod
    def _call(callback: Callable[..., None], *arguments: int) -> None:
        try:
            callback(*arguments)
        except Exception:
            log.exception("event=bug where=%s", getattr(callback, "__qualname__", callback))
