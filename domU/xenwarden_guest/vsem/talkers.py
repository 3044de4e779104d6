# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is talked to, from sampled headers: bounded tables, one per direction; pure."""

from __future__ import annotations

from xenwarden_guest.vsem.headers import address_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.vsem.headers import Header, Networks

MAX_ADDRESSES = 2048  # beyond, further addresses are counted as one: a scan cannot make the agent grow
MAX_PEERS = 256
TOP = 8


class Talkers:
    """The peers of one direction in one report: destinations of what is sent, sources of what comes."""

    __slots__ = ("_addresses", "_external", "_networks", "_outgoing", "_peers", "samples", "syn_samples")

    def __init__(self, networks: Networks, *, outgoing: bool) -> None:
        self._networks = networks
        self._outgoing = outgoing
        self._addresses: dict[bytes, int] = {}
        self._peers: dict[tuple[bytes, int, int], list[int]] = {}  # [samples, SYN samples]
        self._external = 0
        self.samples = 0
        self.syn_samples = 0

    def add(self, header: Header) -> None:
        """Count one sampled packet."""
        address = header.dest if self._outgoing else header.source
        addresses = self._addresses
        if address in addresses or len(addresses) < MAX_ADDRESSES:
            addresses[address] = addresses.get(address, 0) + 1
        self.samples += 1
        self.syn_samples += header.syn
        if self._networks and not self._networks.inside(address):
            self._external += 1
        peer = (address, header.protocol, header.dest_port)
        counts = self._peers.get(peer)
        if counts is None:
            if len(self._peers) >= MAX_PEERS:
                return
            counts = self._peers[peer] = [0, 0]
        counts[0] += 1
        counts[1] += header.syn

    def distinct(self) -> int:
        """Return how many distinct addresses were seen."""
        return len(self._addresses)

    def top_share(self) -> float:
        """Return the share of the most frequent address among the samples."""
        return max(self._addresses.values()) / self.samples if self.samples else 0.0

    def external_share(self) -> float | None:
        """Return the share outside the provider's networks; None while these are not known."""
        if not self._networks:
            return None
        return self._external / self.samples if self.samples else 0.0

    def top(self, pps: float, syn_pps: float) -> list[str]:
        """Return the top peers as `address,protocol,port,pps,syn_pps`.

        Samples give shares, the exact counters the sum: each peer's rate is its share of `pps`.
        """
        order = sorted(self._peers.items(), key=lambda item: item[1], reverse=True)
        lines = []
        for (address, protocol, port), (count, syns) in order[:TOP]:
            peer_pps = pps * count / self.samples
            peer_syn_pps = syn_pps * syns / self.syn_samples if self.syn_samples else 0.0
            lines.append(f"{address_text(address)},{protocol},{port},{peer_pps:.1f},{peer_syn_pps:.1f}")
        return lines
