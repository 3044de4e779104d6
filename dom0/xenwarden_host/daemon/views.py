# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build the snapshot that HSEM decides on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenwarden_host.records import Snapshot, VmView

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xenwarden_host.daemon.tracker import Guest
    from xenwarden_host.records import LimitKey


def build(
    vms: Mapping[str, Guest],
    *,
    now_s: float,
    unix_s: float,
    level1_s: float,
    level2_s: float,
    known_s: Callable[[str, float], float],
    signals: Mapping[str, Mapping[str, float]],
    held: Callable[[str], frozenset[LimitKey]],
) -> Snapshot:
    """Return all VMs that run, as of now. `signals` are HREM's, by UUID."""
    views = []
    for uuid, guest in vms.items():
        info, inbox = guest.info, guest.inbox
        if info.dying:
            continue
        fresh = inbox.hand_over(now_s, level1_s)
        views.append(
            VmView(
                uuid=uuid,
                domid=info.domid,
                name=info.name,
                vm_type=info.vm_type,
                vcpus=info.vcpus_online,
                known_s=known_s(uuid, now_s),
                paused=info.paused,
                hrem=signals.get(uuid, {}),
                agent=inbox.state(now_s, level1_s=level1_s, level2_s=level2_s),
                report=inbox.report,
                report_is_new=fresh,
                report_age_s=inbox.report_age_s(now_s),
                answer=inbox.answer,
                held=held(uuid),
                service=info.service,
                passed_s=inbox.passed_s,
            )
        )
    return Snapshot(now_s=now_s, unix_s=unix_s, vms=tuple(views))
