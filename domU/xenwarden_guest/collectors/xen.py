# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where we run: /sys/hypervisor and /proc/xen."""

from __future__ import annotations

from xenwarden_guest.collectors import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors import Roots


def on_xen(roots: Roots) -> bool:
    """Say whether the hypervisor is Xen."""
    try:
        return read_file(roots.sys + "/hypervisor/type").strip() == b"xen"
    except OSError:
        return False


def is_management(roots: Roots) -> bool:
    """Say whether this is the management VM (dom0): it has the control_d capability."""
    try:
        return b"control_d" in read_file(roots.proc + "/xen/capabilities")
    except OSError:
        return False
