# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one table of signals: every number that a monitor reports, its unit and its meaning.

A *signal* is a named finite number ≥ 0. A signal that could not be read is absent, never zero.
Rates are per second over the interval of the report; tx is what the VM sends, rx what it receives.
"""

from __future__ import annotations

# source: who measures it. "vsem" and "vrem" are the guest's own word (untrusted, may incriminate that
# guest only); "hrem" is what dom0 counts itself.
VSEM = "vsem"
VREM = "vrem"
HREM = "hrem"

# name: (source, unit, meaning). Names are unique over all sources.
SIGNALS: dict[str, tuple[str, str, str]] = {
    # VSEM, from the interfaces' counters
    "tx_pps": (VSEM, "1/s", "packets sent"),
    "rx_pps": (VSEM, "1/s", "packets received"),
    "tx_bps": (VSEM, "bit/s", "bits sent"),
    "rx_bps": (VSEM, "bit/s", "bits received"),
    "tx_drop_pps": (VSEM, "1/s", "packets that the interface dropped on sending"),
    # VSEM, from sampled packet headers, corrected for sampling
    "tx_syn_pps": (VSEM, "1/s", "TCP SYN without ACK sent"),
    "rx_syn_pps": (VSEM, "1/s", "TCP SYN without ACK received"),
    "tx_synack_pps": (VSEM, "1/s", "TCP SYN with ACK sent (an answer)"),
    "rx_synack_pps": (VSEM, "1/s", "TCP SYN with ACK received"),
    "tx_rst_pps": (VSEM, "1/s", "TCP RST sent (an answer)"),
    "rx_rst_pps": (VSEM, "1/s", "TCP RST received"),
    "tx_udp_pps": (VSEM, "1/s", "UDP sent"),
    "rx_udp_pps": (VSEM, "1/s", "UDP received"),
    "tx_icmp_pps": (
        VSEM,
        "1/s",
        "ICMP and ICMPv6 requests sent (echo and the like; errors and replies are not counted)",
    ),
    "rx_icmp_pps": (VSEM, "1/s", "ICMP and ICMPv6 requests received"),
    "tx_arp_pps": (VSEM, "1/s", "ARP sent"),
    "tx_dests": (VSEM, "count", "distinct destination addresses in the interval, estimated"),
    "rx_sources": (VSEM, "count", "distinct source addresses in the interval, estimated"),
    "tx_top_share": (VSEM, "ratio", "share of the most frequent destination among packets sent"),
    "tx_external_share": (
        VSEM,
        "ratio",
        "share of packets sent to addresses outside the provider's networks",
    ),
    # VSEM, successful and failed tries to send, from the kernel's protocol counters
    "tcp_open_ps": (VSEM, "1/s", "TCP connections that the VM tried to open"),
    "tcp_fail_ps": (VSEM, "1/s", "TCP connections that the VM tried to open and that failed"),
    "tcp_retrans_ps": (VSEM, "1/s", "TCP segments sent again"),
    "udp_error_ps": (VSEM, "1/s", "UDP receive and send errors, and ICMP errors received"),
    # VSEM, connections that stay open: who opened them, estimated at level 1 and counted at level 2
    "tcp_held": (VSEM, "count", "open TCP connections that the VM opened"),
    "tcp_taken": (VSEM, "count", "open TCP connections that others opened"),
    "tcp_drop_ps": (VSEM, "1/s", "TCP connections to the VM that found the queue of its service full"),
    # VSEM, at level 2
    "tcp_stalling": (VSEM, "count", "connections that the VM holds up, bit by bit or unread"),
    "tcp_stalled": (VSEM, "count", "connections that others hold up, bit by bit or unread"),
    # VSEM, requests to the hypervisor
    "hv_event_ps": (VSEM, "1/s", "event-channel interrupts taken"),
    "hv_blk_rps": (VSEM, "1/s", "requests to the block backend"),
    # VREM
    "cpu_pct": (VREM, "%", "CPU used, of what the VM's online vCPUs could give"),
    "steal_pct": (VREM, "%", "CPU wanted but not given, of what the online vCPUs could give"),
    "run_queue": (VREM, "count", "runnable tasks per online vCPU"),
    "mem_used_pct": (VREM, "%", "memory in use and not reclaimable"),
    "swap_used_pct": (VREM, "%", "swap in use"),
    "disk_bps": (VREM, "bit/s", "disk bits read and written"),
    "psi_cpu_pct": (VREM, "%", "time some task waited for CPU (PSI)"),
    "psi_mem_pct": (VREM, "%", "time some task waited for memory (PSI)"),
    "psi_io_pct": (VREM, "%", "time some task waited for I/O (PSI)"),
    "fork_ps": (VREM, "1/s", "processes and threads created"),
    # HREM, dom0's own counters of one domain
    "vcpu_pct": (HREM, "%", "CPU time received, of what the online vCPUs could take"),
    "vif_tx_pps": (HREM, "1/s", "packets that the VM offered to its vifs"),
    "vif_tx_bps": (HREM, "bit/s", "bits that the VM offered to its vifs"),
    "vif_rx_pps": (HREM, "1/s", "packets delivered to the VM"),
    "vif_rx_bps": (HREM, "bit/s", "bits delivered to the VM"),
    "vif_rx_drop_pps": (HREM, "1/s", "packets for the VM dropped because it did not take them"),
    "vif_tx_drop_pps": (HREM, "1/s", "packets of the VM that dom0's own queues dropped"),
    "vif_police_drop_pps": (HREM, "1/s", "packets of the VM dropped by a limit of ours"),
    "vbd_rps": (HREM, "1/s", "requests to its block backends"),
    "vbd_full_ps": (HREM, "1/s", "requests that found its block backend's ring full, and had to wait"),
    "event_ps": (HREM, "1/s", "events that its backend devices received from it"),
    "spurious_event_ps": (HREM, "1/s", "of these, events without work"),
    "ask_ps": (HREM, "1/s", "requests for more that it made, over the last half minute"),
    # HREM, at level 2: from bursts of Xen's trace
    "hypercall_ps": (HREM, "1/s", "hypercalls"),
    "hypercall_memory_ps": (HREM, "1/s", "hypercalls about page tables and memory"),
    "hypercall_sched_ps": (HREM, "1/s", "hypercalls about sleep, timers and switching processes"),
    "hypercall_io_ps": (HREM, "1/s", "hypercalls about events and grants"),
    "hypercall_batch_ps": (HREM, "1/s", "hypercalls that are a batch of others"),
    "hypercall_other_ps": (HREM, "1/s", "other hypercalls"),
    "xen_fault_ps": (HREM, "1/s", "faults and instructions of a PV guest that Xen had to deal with"),
    "vm_exit_ps": (HREM, "1/s", "exits of a PVH or HVM guest to Xen, hypercalls among them"),
    # HREM, from all ARP that dom0's own agent hears
    "arp_claim_pps": (HREM, "1/s", "ARP sent unasked that claims an address which another uses"),
    "arp_claimed_pps": (
        HREM,
        "1/s",
        "ARP of others that claims its address unasked, or says so to it of another",
    ),
    "arp_ask_pps": (HREM, "1/s", "addresses that it asks for by ARP, and did not in the minutes before"),
    "arp_answer_pps": (HREM, "1/s", "of these addresses, those that answer"),
    # HREM, of the domain itself
    "domain_age_s": (HREM, "s", "time since dom0 first saw this domain of the VM"),
    "domain_restarts": (HREM, "count", "times that the VM was started anew within the last hour"),
}

# Of VSEM's signals, those that dom0's own agent measures at a VM's vifs at level 2. As HREM's signal each
# has BY_DOM0 before its name.
BY_DOM0 = "vif_"
HEADERS = (
    "tx_syn_pps", "rx_syn_pps", "tx_synack_pps", "rx_synack_pps", "tx_rst_pps", "rx_rst_pps",
    "tx_udp_pps", "rx_udp_pps", "tx_icmp_pps", "rx_icmp_pps", "tx_arp_pps",
    "tx_dests", "rx_sources", "tx_top_share", "tx_external_share",
)  # fmt: skip
SIGNALS.update({f"{BY_DOM0}{name}": (HREM, *SIGNALS[name][1:]) for name in HEADERS})
# What dom0's own agent hears by ARP of a domain, as it tells it: HREM's signal of each.
ARP_RATES = {
    "claims": "arp_claim_pps",
    "claimed": "arp_claimed_pps",
    "asked": "arp_ask_pps",
    "answered": "arp_answer_pps",
}


def names(*sources: str) -> list[str]:
    """Return the names of all signals of `sources`, in table order."""
    return [name for name, (source, _unit, _meaning) in SIGNALS.items() if source in sources]
