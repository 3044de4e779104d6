# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `xenwarden capacity` and `xenwarden sprawl` tell, from what the daemon knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_host.control.plain import plain
from xenwarden_host.hrem import capacity
from xenwarden_host.hrem.capacity import Load

if TYPE_CHECKING:
    from xenwarden_host.daemon.tracker import Guest
    from xenwarden_host.daemon.warden import Warden


def capacity_of(warden: Warden) -> dict[str, Any]:
    """Return how full the host is, and what each VM but those that serve others takes of it.

    Raises:
        HypervisorError: the host cannot be asked.
    """
    loads: dict[bool, list[Load]] = {True: [], False: []}
    for guest in warden.tracker.vms().values():
        loads[guest.info.service].append(_load(warden, guest))
    host, keeps_kb = warden.hypervisor.host_info(), warden.policy.grants.host_keeps_kb
    found: dict[str, Any] = plain(capacity.look(host, loads[True], loads[False], keeps_kb))
    found["advice"] += warden.balance.advice
    found["vms"] = [
        plain(load) | {"is_near_max": load.is_near_max, "gets_too_little": load.gets_too_little}
        for load in loads[False]
    ]
    return found


def _load(warden: Warden, guest: Guest) -> Load:
    info, signals = guest.info, warden.known_signals(guest)
    cpu = signals.get("vcpu_pct")
    near, near_of = warden.history.near_capacity(info.uuid)
    return Load(
        name=info.name,
        domid=info.domid,
        uuid=info.uuid,
        vcpus=info.vcpus_online,
        memory_kb=info.memory_kb,
        cpus_used=None if cpu is None else round(cpu * info.vcpus_online / 100, 3),
        mem_used_pct=signals.get("mem_used_pct"),
        steal_pct=signals.get("steal_pct"),
        steal_usual=warden.history.upper(info.uuid, "steal_pct") or 0.0,
        near_max=near,
        near_max_of=near_of,
    )


def sprawl_of(warden: Warden) -> dict[str, Any]:
    """Return the VMs that have done nothing for as long as the policy says, the longest first."""
    policy, unix_s = warden.policy.sprawl, warden.clock.unix()
    why = f"no traffic to speak of and under {policy.cpu_pct:g} % CPU"
    idle = {uuid: warden.idle.idle_s(uuid, unix_s) for uuid in warden.tracker.vms()}
    guests = [
        guest
        for uuid, guest in warden.tracker.vms().items()
        if idle[uuid] >= policy.idle_s and not guest.info.service
    ]
    guests.sort(key=lambda guest: -idle[guest.info.uuid])
    vms = [
        {
            "name": guest.info.name,
            "domid": guest.info.domid,
            "uuid": guest.info.uuid,
            "vcpus": guest.info.vcpus_online,
            "memory_kb": guest.info.memory_kb,
            "idle_s": round(idle[guest.info.uuid], 1),
            "why": why,
        }
        for guest in guests
    ]
    memory_kb = sum(guest.info.memory_kb for guest in guests)
    return {"vms": vms, "memory_kb": memory_kb, "after_s": policy.idle_s}
