# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which signals a limit of ours corrupts: they say what the limit does, not what the VM does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenwarden_host.records import LimitKind, PacketClass

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenwarden_host.records import LimitKey

_NOTHING: frozenset[str] = frozenset()
_STARVED = frozenset(("steal_pct", "psi_cpu_pct", "run_queue"))
_CPU = _STARVED | {"cpu_pct", "vcpu_pct"}
_TCP_FAILURES = frozenset(("tcp_fail_ps", "tcp_retrans_ps", "rx_synack_pps", "rx_rst_pps"))
# Packets are not among them: a rate makes them fewer, and leaves what share of them is of which kind.
_SENT = frozenset(("tx_bps", "tx_drop_pps", "vif_tx_bps", "psi_io_pct"))
_RECEIVED = frozenset(("rx_pps", "rx_bps", "vif_rx_pps", "vif_rx_bps", "vif_rx_drop_pps"))

# A capped vCPU's parked time is steal to the guest; a throttled vif stops the guest's own sending; a
# policed packet is dropped after all counters of sending, but its answer never comes.
_BY_KIND: dict[LimitKind, frozenset[str]] = {
    LimitKind.CAP: _CPU,
    LimitKind.VCPUS: _CPU,
    LimitKind.WEIGHT: _STARVED,
    LimitKind.VIF_RATE: _SENT | {"tcp_fail_ps", "tcp_retrans_ps"},
    LimitKind.VIF_IN: _RECEIVED | _TCP_FAILURES,
    LimitKind.VBD_IO: frozenset(("psi_io_pct", "disk_bps", "vbd_rps", "hv_blk_rps")),
    LimitKind.MEMORY: frozenset(("psi_mem_pct", "psi_io_pct", "mem_used_pct", "swap_used_pct")),
    LimitKind.PAUSE: _NOTHING,  # a VM that does not run says nothing
}
_BY_CLASS: dict[PacketClass, frozenset[str]] = {
    PacketClass.SYN: _TCP_FAILURES | {"tx_pps", "rx_pps"},
    PacketClass.UDP: frozenset(("rx_udp_pps", "udp_error_ps")),
    PacketClass.ICMP: frozenset(("udp_error_ps",)),
    PacketClass.TCP: _TCP_FAILURES | {"tx_pps", "rx_pps"},
    # Without ARP nobody is found any more, whatever is sent.
    PacketClass.ARP: _TCP_FAILURES | {"arp_answer_pps", "rx_pps", "vif_rx_pps", "rx_udp_pps", "udp_error_ps"},
}
# Under these the agent may be late for want of CPU: its silence is none of its own.
STARVING = frozenset((LimitKind.CAP, LimitKind.VCPUS, LimitKind.WEIGHT, LimitKind.PAUSE))


def masked(held: Iterable[LimitKey]) -> frozenset[str]:
    """Return the signals that do not count while these limits, ours or an operator's, are in force."""
    out = _NOTHING
    for key in held:
        out |= _BY_CLASS[key.match] if key.match is not None else _BY_KIND[key.kind]
    return out
