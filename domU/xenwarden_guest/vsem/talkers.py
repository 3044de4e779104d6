# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is talked to, from sampled headers: bounded tables, one per direction; pure.

Each sample stands for 1 / chance packets (Horvitz and Thompson, 1952). Distinct addresses are counted in
the slice of the hash's range that is sampled whole, which is halved when the table is full (Wegman's
adaptive sampling; Flajolet, 1990): with 400 addresses in the slice the standard error is 5 %.
"""

from __future__ import annotations

from xenwarden_guest.vsem.headers import address_text
from xenwarden_guest.vsem.plan import address_hash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.vsem.headers import Header, Networks
    from xenwarden_guest.vsem.plan import Plan

MAX_ADDRESSES = 1024  # in the slice; about 100 kB
MAX_PEERS = 512
TOP = 8
_TOP_BY_SYN = 4  # of them: who is tried again and again sends no packet back, and gets few
_WORD = 0xFFFFFFFF
# Below this many addresses in the slice its estimate is noise.
_FEW = 8
_MAIN_PORT = 0.25  # votes for a port, of a peer's packets, that make it the peer's port
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp"}


class _Peer:
    """One address and protocol: packets and SYN packets that its samples stand for, and its port."""

    __slots__ = ("packets", "port", "port_votes", "syns")

    def __init__(self) -> None:
        self.packets = 0.0
        self.syns = 0.0
        self.port = 0
        self.port_votes = 0.0  # Boyer and Moore's majority vote: at most the port's packets

    def add(self, weight: float, port: int, *, syn: bool) -> None:
        self.packets += weight
        self.syns += weight * syn
        if self.port == port:
            self.port_votes += weight
        elif self.port_votes < weight:
            self.port, self.port_votes = port, weight - self.port_votes
        else:
            self.port_votes -= weight


class Talkers:
    """The peers of one direction in one report: destinations of what is sent, sources of what comes."""

    __slots__ = (
        "_external",
        "_networks",
        "_outgoing",
        "_packets",
        "_peers",
        "_salt",
        "_seen",
        "_slice",
        "_slice_shift",
        "_syns",
    )

    def __init__(self, networks: Networks, *, outgoing: bool) -> None:
        self._networks = networks
        self._outgoing = outgoing
        self._peers: dict[tuple[bytes, int], _Peer] = {}
        self._slice: dict[bytes, int] = {}  # address: its hash
        self._slice_shift = 0
        self._salt = 0
        self._seen = 0  # distinct addresses that an earlier salt showed
        self._packets = 0.0
        self._syns = 0.0
        self._external = 0.0

    def add(self, header: Header, plan: Plan, scale: float) -> bool:
        """Count a packet that was sampled by `plan`, or `scale` of them: there were more, or some were lost.

        Return whether its peer is in the slice of addresses that is taken whole.
        """
        address = header.dest if self._outgoing else header.source
        hashed = address_hash(address, plan.salt)
        weight = scale * plan.stands_for(hashed, syn=header.syn)
        self._packets += weight
        self._syns += weight * header.syn
        if self._networks and not self._networks.inside(address):
            self._external += weight
        peer = self._peers.get((address, header.protocol))
        if peer is None and len(self._peers) < MAX_PEERS:
            peer = self._peers[address, header.protocol] = _Peer()
        if peer is not None:
            peer.add(weight, header.dest_port, syn=header.syn)
        self._count(address, hashed, plan)
        return hashed <= _WORD >> plan.slice_shift

    def _count(self, address: bytes, hashed: int, plan: Plan) -> None:
        if plan.salt != self._salt:
            self._seen = self.distinct()
            self._salt, self._slice_shift, self._slice = plan.salt, plan.slice_shift, {}
        if plan.slice_shift > self._slice_shift:
            self._narrow(plan.slice_shift)
        if hashed <= _WORD >> self._slice_shift:
            self._slice[address] = hashed
            while len(self._slice) > MAX_ADDRESSES:
                self._narrow(self._slice_shift + 1)

    def _narrow(self, shift: int) -> None:
        self._slice_shift = shift
        limit = _WORD >> shift
        self._slice = {address: hashed for address, hashed in self._slice.items() if hashed <= limit}

    def distinct(self) -> int:
        """Return how many distinct addresses there were, estimated where not all packets were seen."""
        sampled = len({address for address, _protocol in self._peers})
        if self._slice_shift == 0:
            return max(len(self._slice), self._seen)
        in_slice = len(self._slice)
        return max(sampled, self._seen, in_slice << self._slice_shift if in_slice >= _FEW else 0)

    def top_share(self) -> float:
        """Return the share of the most frequent address among the packets."""
        if not self._packets:
            return 0.0
        sums: dict[bytes, float] = {}
        for (address, _protocol), peer in self._peers.items():
            sums[address] = sums.get(address, 0.0) + peer.packets
        return max(sums.values()) / self._packets

    def external_share(self) -> float | None:
        """Return the share outside the provider's networks; None while these are not known."""
        if not self._networks:
            return None
        return self._external / self._packets if self._packets else 0.0

    def top(self, pps: float, syn_pps: float) -> list[str]:
        """Return the top peers as `address,protocol,port,pps,syn_pps`; port 0: none stands out.

        Top by packets, and those that stand out by SYN. Samples give shares, the exact counters the sum: each
        peer's rate is its share of `pps`.
        """
        order = sorted(self._peers.items(), key=lambda item: (item[1].packets, item[1].syns), reverse=True)
        if len(order) > TOP:
            by_syn = sorted(order, key=lambda item: item[1].syns, reverse=True)[:_TOP_BY_SYN]
            opened = [item for item in by_syn if item[1].syns]
            others = [item for item in order if item not in opened][: TOP - len(opened)]
            order = [item for item in order if item in opened or item in others]
        lines = []
        for (address, protocol), peer in order:
            peer_pps = pps * peer.packets / self._packets
            peer_syn_pps = syn_pps * peer.syns / self._syns if self._syns else 0.0
            port = peer.port if peer.port_votes >= _MAIN_PORT * peer.packets else 0
            name = _PROTOCOLS.get(protocol, "other")
            lines.append(f"{address_text(address)},{name},{port},{peer_pps:.1f},{peer_syn_pps:.1f}")
        return lines
