# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tell systemd how the daemon is: sd_notify(3) in a few lines."""

from __future__ import annotations

import os
import socket

_PATIENCE_S = 0.1  # a manager that does not read must not hold up the loop


def notify(state: str) -> None:
    """Send `state`, such as `READY=1`, to the manager; nothing happens where there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(_PATIENCE_S)
        try:
            connection.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
        except OSError:
            return  # a manager that does not listen is no reason to stop


def watchdog_interval_s() -> float | None:
    """Return how often systemd wants to hear from us, None where it does not: half of WatchdogSec."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2_000_000
