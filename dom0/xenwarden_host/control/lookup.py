# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which VM a request names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_host.errors import XenwardenError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.daemon.tracker import Guest
    from xenwarden_host.daemon.warden import Warden


def running(warden: Warden, request: Mapping[str, Any]) -> Guest:
    """Return the VM that `vm` names: by domain id, UUID or name.

    Raises:
        XenwardenError: it names none, or several.
    """
    wanted = request.get("vm")
    vms = warden.tracker.vms()
    if not isinstance(wanted, str) or not wanted:
        raise XenwardenError("no VM was named")
    if wanted.isascii() and wanted.isdigit() and len(wanted) <= 5:
        found = [guest for guest in vms.values() if guest.info.domid == int(wanted)]
    else:
        found = [vms[wanted.lower()]] if wanted.lower() in vms else []
    found = found or [guest for guest in vms.values() if guest.info.name == wanted]
    if not found:
        raise XenwardenError(f"no VM {wanted!r} runs here", hint="see: xenwarden list")
    if len(found) > 1:
        ids = ", ".join(str(guest.info.domid) for guest in found)
        raise XenwardenError(f"{wanted!r} is the name of several VMs", hint=f"say which by its id: {ids}")
    return found[0]


def known(warden: Warden, request: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return UUID and name of the VM that `vm` names; one that is gone is named by UUID.

    Raises:
        XenwardenError: it names none, or several.
    """
    wanted = str(request.get("vm")).lower()
    if wanted not in warden.tracker.vms() and warden.operator.known_of(wanted):
        return wanted, None
    guest = running(warden, request)
    return guest.info.uuid, guest.info.name
