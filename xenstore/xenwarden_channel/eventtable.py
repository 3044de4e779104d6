# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is watched, and what fired: bounded whatever guests write, and safe for threads."""

from __future__ import annotations

import contextlib
import os
import threading

MAX_PATHS_PER_TOKEN = 64


class EventTable:
    """Watches by token, and for each token the distinct paths that fired since the last `take`.

    A guest chooses the names of what it writes below a watched node, so each token keeps at most
    `MAX_PATHS_PER_TOKEN` of them; beyond that they become the watched paths themselves: read
    everything below again. Events of tokens that nobody watches are dropped.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[str, dict[str, None]] = {}
        self._fired: dict[str, dict[str, None]] = {}
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def add_watch(self, path: str, token: str) -> bool:
        """Remember a watch; False where it is there already."""
        with self._lock:
            paths = self._watched.setdefault(token, {})
            if path in paths:
                return False
            paths[path] = None
            return True

    def remove_watch(self, path: str, token: str) -> None:
        """Forget a watch and, with a token's last one, its events."""
        with self._lock:
            paths = self._watched.get(token, {})
            paths.pop(path, None)
            if not paths:
                self._watched.pop(token, None)
                self._fired.pop(token, None)

    def watches(self) -> list[tuple[str, str]]:
        """Return all (path, token) watched."""
        with self._lock:
            return [(path, token) for token, paths in self._watched.items() for path in paths]

    def fire(self, events: list[tuple[str, str]]) -> None:
        """Take in (path, token) events."""
        with self._lock:
            was_empty = not self._fired
            for path, token in events:
                watched = self._watched.get(token)
                if watched is None:
                    continue
                fired = self._fired.setdefault(token, {})
                if len(fired) < MAX_PATHS_PER_TOKEN:
                    fired[path] = None
                elif path not in fired:
                    self._fired[token] = dict.fromkeys(watched)
            if was_empty and self._fired:
                os.eventfd_write(self._fd, 1)

    def take(self) -> list[tuple[str, str]]:
        """Return and clear the events, each pair once."""
        with self._lock:
            fired, self._fired = self._fired, {}
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._fd)
        return [(path, token) for token, paths in fired.items() for path in paths]

    def fileno(self) -> int:
        """Return a descriptor that is readable while `take` has something to return."""
        return self._fd

    def close(self) -> None:
        """Close the descriptor."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
