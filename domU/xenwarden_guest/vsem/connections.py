# SPDX-License-Identifier: LGPL-2.1-or-later
"""Connections that stay open, by who opened them; and those that one end holds up. Pure.

The kernel counts who opened connections, and how many are open in all. What ended, of either kind, is
estimated at level 1: as many of each as were opened in the same time. At level 2 sockets are looked at.

Slow HTTP (slowloris and its like) holds a server's connections with next to no packets: the request comes in
bits, and nothing can be answered; or the answer is not read. A pool's idle connections were used before, the
request to a server that hangs was sent as a whole, and a large upload comes in large segments.
"""

from __future__ import annotations

from xenwarden_guest.delta import step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xenwarden_guest.collectors.sockdiag import Connection

MOST = 256  # sockets that are looked at, of each IP version: a millisecond. Of more, the share counts
# Nothing came back for so long since, or was taken; servers wait for a request for 20 to 60 s.
_SLOW_MS = 5000
_BITS = 2  # segments of which the first alone may be a whole request,
_BITS_EACH = 3  # and so many for each that came back: who says that it still lives is told the same,
_SMALL_BYTES = 512  # and so small on average: no upload


class Held:
    """How many connections are open that the VM opened, and that others did."""

    __slots__ = ("_known", "opened", "taken")

    def __init__(self) -> None:
        self.opened = 0.0
        self.taken = 0.0
        self._known = False

    def follow(self, before: Mapping[str, int], after: Mapping[str, int], seconds: float) -> bool:
        """Take in what two readings tell; return whether anything is known."""
        established = after.get("tcp_established")
        tried = step(before, after, "tcp_opens", seconds)
        accepts = step(before, after, "tcp_accepts", seconds)
        fails = step(before, after, "tcp_fails", seconds)
        if established is None:
            self._known = False
        elif tried is None or accepts is None or fails is None or not self._known:
            # Of connections from before, as many are of each kind as have been since the VM was started.
            self.split(after.get("tcp_opens", 0), after.get("tcp_accepts", 0), established)
        else:
            opens = max(0, tried - fails)
            opened, taken = self.opened + opens, self.taken + accepts
            ended = opened + taken - established
            if ended < 0:
                opened -= ended  # tried earlier, answered now
            elif ended > 0:
                share = opens / (opens + accepts) if opens + accepts else opened / (opened + taken)
                opened -= min(opened, max(share * ended, ended - taken))
            self.split(opened, established - opened, established)
        return self._known

    def split(self, opened: float, taken: float, established: int) -> None:
        """Divide what is open now by these shares."""
        whole = opened + taken
        if whole > 0:
            self.opened = established * opened / whole
        self.opened = min(self.opened, established)
        self.taken = established - self.opened
        self._known = True


class Looked:
    """What a look at the sockets found, itself and not the VM's connections to itself."""

    __slots__ = ("opened", "stalled", "stalling", "taken")

    def __init__(self, sockets: Sequence[Connection]) -> None:
        services = {socket.port for socket in sockets if socket.listening}
        self.opened = self.taken = self.stalling = self.stalled = 0
        for socket in sockets:
            if socket.listening:
                continue
            to_service = socket.port in services
            if to_service:
                self.taken += 1
            else:
                self.opened += 1
            if socket.inside:
                continue
            if to_service:
                self.stalled += is_stalled(socket)
            else:
                self.stalling += is_stalling(socket)

    def signals(self, scale: float) -> dict[str, float]:
        """Return the signals; `scale`: so many times more are open than were looked at."""
        # Who hands on what others do to it, as a proxy does, is no origin of that.
        stalling = max(0, self.stalling - self.stalled)
        return {"tcp_stalling": stalling * scale, "tcp_stalled": self.stalled * scale}


def is_stalling(own: Connection) -> bool:
    """Tell whether the VM holds a connection up that it opened."""
    since_ms = own.since_received_ms
    if own.unread:
        return since_ms >= _SLOW_MS
    return since_ms - own.since_sent_ms >= _SLOW_MS and _in_bits(
        own.sent_segments, own.sent_bytes, own.received_segments
    )


def is_stalled(taken: Connection) -> bool:
    """Tell whether the other end holds a connection up that it opened to the VM."""
    since_ms = taken.since_sent_ms
    if taken.unsent:
        return since_ms >= _SLOW_MS
    return since_ms - taken.since_received_ms >= _SLOW_MS and _in_bits(
        taken.received_segments, taken.received_bytes, taken.sent_segments
    )


def _in_bits(segments: int, size: int, back: int) -> bool:
    return segments >= max(_BITS, _BITS_EACH * back) and size < _SMALL_BYTES * segments
