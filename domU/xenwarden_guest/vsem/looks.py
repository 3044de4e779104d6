# SPDX-License-Identifier: LGPL-2.1-or-later
"""In dom0, on HREM's order: what other domains really send, by the headers that pass their vifs.

Whatever its own agent says, or does not. Hostile packets are parsed here and never in dom0's daemon.
"""

from __future__ import annotations

from xenwarden_channel import paths
from xenwarden_channel.messages import encode
from xenwarden_guest.collectors import interfaces
from xenwarden_guest.vsem.monitor import Monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_channel.messages import Message
    from xenwarden_guest.collectors import Roots
    from xenwarden_guest.vsem.headers import Networks

MAX_VIFS = 16  # of all domains together: each takes 15 sockets
_MAX_FOR_S = 3600.0


class Looks:
    """Monitors of other domains, by domid."""

    __slots__ = ("_monitors", "_roots", "_since_s", "until_s")

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._monitors: dict[int, Monitor] = {}
        self._since_s: dict[int, float] = {}
        self.until_s = 0.0  # then all is let go

    def obey(self, order: Message, networks: Networks, now_s: float) -> list[str]:
        """Look at what is ordered and at nothing else; return the nodes of what is let go."""
        words = order.fields.get("domids", "").split(",")[: paths.MAX_LOOKS]
        wanted = [int(word) for word in words if word.isdigit() and len(word) < 6]
        self.until_s = now_s + min(order.number("for") or 0.0, _MAX_FOR_S)
        gone = [domid for domid in self._monitors if domid not in wanted]
        for domid in gone:
            self._monitors.pop(domid).close()
            del self._since_s[domid]
        for domid in wanted:
            if domid not in self._monitors:
                monitor = self._monitors[domid] = Monitor(self._roots, management=True)
                monitor.level = 2
                monitor.networks = networks
                self._since_s[domid] = now_s
        self._find()
        return [paths.headers(domid) for domid in gone]

    def _find(self) -> None:
        """Follow the vifs of each domain, and open what is new: a part of a domain's vifs would be a lie."""
        try:
            names = interfaces.names(self._roots)
        except OSError:
            names = []
        left = MAX_VIFS
        for domid, monitor in self._monitors.items():
            own = [name for name in names if name.startswith(f"vif{domid}.")]
            if not 0 < len(own) <= left:
                monitor.failed.add("interfaces")
                own = []
            left -= len(own)
            monitor.follow(interfaces.read(self._roots, own))
            monitor.look(0.0)

    def finish(self, seq: int, now_s: float) -> list[tuple[str, bytes]]:
        """Return each domain's node and what it shall hold: what was seen since the last call."""
        out = []
        for domid, monitor in self._monitors.items():
            seconds = now_s - self._since_s[domid]
            monitor.look(seconds)
            fields: dict[str, str | float] = {"interval": seconds}
            signals = {} if "interfaces" in monitor.failed else monitor.packets(seconds)
            fields["missing"] = ",".join(monitor.start())
            out.append((paths.headers(domid), encode("headers", seq, {**fields, **signals})))
            self._since_s[domid] = now_s
        self._find()
        return out

    def close(self) -> list[str]:
        """Let all go; return their nodes."""
        nodes = [paths.headers(domid) for domid in self._monitors]
        for monitor in self._monitors.values():
            monitor.close()
        self._monitors = {}
        return nodes
