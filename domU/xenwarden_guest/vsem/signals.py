# SPDX-License-Identifier: LGPL-2.1-or-later
"""VSEM's signals that come from the kernel's counters: tries to send, requests to the hypervisor; pure."""

from __future__ import annotations

from xenwarden_guest.delta import rates

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_COUNTERS = {
    "tcp_open_ps": "tcp_opens",
    "tcp_fail_ps": "tcp_fails",
    "tcp_retrans_ps": "tcp_retrans",
    "tcp_drop_ps": "tcp_drops",
    "udp_error_ps": "udp_errors",
    "hv_event_ps": "hv_events",
    "hv_blk_rps": "hv_blk_requests",
}


def signals(before: Mapping[str, int], after: Mapping[str, int], seconds: float) -> dict[str, float]:
    """Return the signals that two readings, `seconds` apart, allow."""
    found = rates(before, after, _COUNTERS, seconds)
    if "tcp_fail_ps" in found:
        # Linux counts a connection that a client of ours gave up half-open as a failed attempt, too: under
        # a SYN flood that would be held against the victim. Of its own attempts no more can have failed.
        found["tcp_fail_ps"] = min(found["tcp_fail_ps"], found.get("tcp_open_ps", 0.0))
    return found
