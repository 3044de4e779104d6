# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which signals a limit of ours corrupts: they say what the limit does, not what the VM does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenwarden_host.records import LimitKey, LimitKind, PacketClass

if TYPE_CHECKING:
    from collections.abc import Iterable

_TCP_FAILURES = frozenset(("tcp_fail_ps", "tcp_retrans_ps", "rx_synack_pps", "rx_rst_pps"))
_SENT = frozenset(
    (
        "tx_pps", "tx_bps", "tx_drop_pps", "tcp_retrans_ps", "tcp_fail_ps",
        "vif_tx_pps", "vif_tx_bps", "psi_io_pct",
    )
)  # fmt: skip

# A capped vCPU's parked time is steal to the guest; a throttled vif stops the guest's own sending; a
# policed packet is dropped after all counters of sending, but its answer never comes.
CORRUPTS: dict[LimitKey, frozenset[str]] = {
    LimitKey(LimitKind.CAP): frozenset(("steal_pct", "cpu_pct", "psi_cpu_pct", "run_queue", "vcpu_pct")),
    LimitKey(LimitKind.VIF_RATE): _SENT,
    LimitKey(LimitKind.VIF_PPS, PacketClass.SYN): _TCP_FAILURES | {"tx_pps", "rx_pps"},
    LimitKey(LimitKind.VIF_PPS, PacketClass.UDP): frozenset(("rx_udp_pps", "udp_error_ps")),
    LimitKey(LimitKind.VIF_PPS, PacketClass.ICMP): frozenset(("udp_error_ps",)),
}


def masked(held: Iterable[LimitKey]) -> frozenset[str]:
    """Return the signals that do not count while these limits are in force."""
    out: frozenset[str] = frozenset()
    for key in held:
        out |= CORRUPTS[key]
    return out
