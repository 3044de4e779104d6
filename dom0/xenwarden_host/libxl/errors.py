# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one place where libxl's error codes become exceptions."""

from __future__ import annotations

from xenwarden_host.errors import DomainGoneError, HypervisorError

# libxl_error in libxl_types.idl. The numbers are part of libxl's ABI and are only ever added to.
NAMES: dict[int, str] = {
    -1: "ERROR_NONSPECIFIC",
    -2: "ERROR_VERSION",
    -3: "ERROR_FAIL",
    -4: "ERROR_NI",
    -5: "ERROR_NOMEM",
    -6: "ERROR_INVAL",
    -7: "ERROR_BADFAIL",
    -8: "ERROR_GUEST_TIMEDOUT",
    -9: "ERROR_TIMEDOUT",
    -10: "ERROR_NOPARAVIRT",
    -11: "ERROR_NOT_READY",
    -12: "ERROR_OSEVENT_REG_FAIL",
    -13: "ERROR_BUFFERFULL",
    -14: "ERROR_UNKNOWN_CHILD",
    -15: "ERROR_LOCK_FAIL",
    -16: "ERROR_JSON_CONFIG_EMPTY",
    -17: "ERROR_DEVICE_EXISTS",
    -18: "ERROR_CHECKPOINT_DEVOPS_DOES_NOT_MATCH",
    -19: "ERROR_CHECKPOINT_DEVICE_NOT_SUPPORTED",
    -20: "ERROR_VNUMA_CONFIG_INVALID",
    -21: "ERROR_DOMAIN_NOTFOUND",
    -22: "ERROR_ABORTED",
    -23: "ERROR_NOTFOUND",
    -24: "ERROR_DOMAIN_DESTROYED",
    -25: "ERROR_FEATURE_REMOVED",
    -26: "ERROR_PROTOCOL_ERROR_QMP",
    -27: "ERROR_UNKNOWN_QMP_ERROR",
    -28: "ERROR_QMP_GENERIC_ERROR",
    -29: "ERROR_QMP_COMMAND_NOT_FOUND",
    -30: "ERROR_QMP_DEVICE_NOT_ACTIVE",
    -31: "ERROR_QMP_DEVICE_NOT_FOUND",
    -32: "ERROR_QEMU_API",
}

_GONE = frozenset({"ERROR_DOMAIN_NOTFOUND", "ERROR_DOMAIN_DESTROYED"})


def error(call: str, code: int, domid: int | None = None) -> HypervisorError:
    """Return the exception for `code` of `call`: `DomainGoneError` where libxl says that there is no such."""
    name = NAMES.get(code, f"ERROR_{-code}")
    if name in _GONE:
        return DomainGoneError(f"domain {domid} is gone", name)
    where = "" if domid is None else f" for domain {domid}"
    return HypervisorError(f"{call} failed{where}: {name}", name)
