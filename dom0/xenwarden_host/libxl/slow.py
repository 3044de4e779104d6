# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls of libxl that may block for minutes, in a thread and on a context of their own.

`libxl_set_memory_target` waits for a lock without limit and repeats its transaction for ever;
`libxl_set_vcpuonline` and an HVM domain's unpause ask QEMU. A context is locked while it is in a call,
so none of them may share that of the quick calls.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from xenwarden_host.libxl.context import Context

if TYPE_CHECKING:
    from collections.abc import Callable

Key = tuple[str, int]

# Nearly all of them are done by then.
_WAIT_S = 0.2
# What is begun gets this long when the daemon ends; the thread does not keep the process alive.
_CLOSE_S = 5.0


class SlowCalls:
    """A worker thread, started by the first call."""

    def __init__(self, make_context: Callable[[], Context] = Context) -> None:
        self._make_context = make_context
        self._lock = threading.Condition()
        self._waiting: OrderedDict[Key, Callable[[Context], None]] = OrderedDict()
        self._failed: dict[Key, Exception] = {}
        self._running: Key | None = None
        self._closing = False
        self._thread: threading.Thread | None = None

    def run(self, key: Key, call: Callable[[Context], None]) -> None:
        """Begin `call`, and wait a moment for it; one of the same key that has not begun is replaced.

        Raises:
            Exception: what this call raised, where it was that quick, or the last one of this key.
        """
        with self._lock:
            late = self._failed.pop(key, None)
            if late is not None:
                raise late
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="libxl-slow", daemon=True)
                self._thread.start()
            self._waiting[key] = call
            self._lock.notify_all()
            self._lock.wait_for(lambda: key not in self._waiting and self._running != key, _WAIT_S)
            soon = self._failed.pop(key, None)
        if soon is not None:
            raise soon

    def close(self) -> None:
        """Finish what is begun, and free the context."""
        with self._lock:
            self._closing = True
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    def _work(self) -> None:
        context: Context | None = None
        while True:
            with self._lock:
                self._running = None
                self._lock.notify_all()
                self._lock.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    break
                key, call = self._waiting.popitem(last=False)
                self._running = key
            try:
                context = context or self._make_context()
                call(context)
            except Exception as problem:
                with self._lock:
                    self._failed[key] = problem
                # A context does not reconnect to a xenstored that was restarted: the next call makes another.
                if context is not None:
                    context.close()
                    context = None
        if context is not None:
            context.close()
