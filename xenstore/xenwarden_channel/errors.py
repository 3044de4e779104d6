# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can go wrong with XenStore, each kind by name: the one place where its error codes are mapped."""

from __future__ import annotations


class StoreError(Exception):
    """XenStore refused a request or could not be asked.

    `code` is XenStore's name of the error, such as `ENOENT`. Codes without a kind of their own are
    raised as plain `StoreError`.
    """

    code = ""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        if code:
            self.code = code


class NotFoundError(StoreError):
    """There is no such node (ENOENT)."""

    code = "ENOENT"


class PermissionDeniedError(StoreError):
    """The node's permissions refuse it (EACCES), or only another may do this at all (EPERM)."""

    code = "EACCES"


class QuotaError(StoreError):
    """The domain's quota of nodes, watches, transactions or memory is used up.

    oxenstored says EQUOTA for all of them. C xenstored says ENOSPC for nodes and E2BIG for watches:
    those are `NoSpaceError` and `TooBigError`, which are kinds of this one.
    """

    code = "EQUOTA"


class TooBigError(QuotaError):
    """The request or what it asks for exceeds a limit (E2BIG)."""

    code = "E2BIG"


class NoSpaceError(QuotaError):
    """The domain may have no more nodes, or none this large (ENOSPC)."""

    code = "ENOSPC"


class AgainError(StoreError):
    """A transaction met another writer, or the daemon is busy: the same again may succeed (EAGAIN)."""

    code = "EAGAIN"


class ExistsError(StoreError):
    """It is there already, such as a watch of the same path and token (EEXIST)."""

    code = "EEXIST"


class InvalidError(StoreError):
    """The request is malformed, such as a path with a forbidden character (EINVAL)."""

    code = "EINVAL"


class DisconnectedError(StoreError):
    """There is no connection, or it broke before the answer: what was asked may or may not have been done."""

    code = "EPIPE"


class DeadlineError(StoreError):
    """No answer in time: what was asked may or may not have been done."""

    code = "ETIMEDOUT"


_KINDS: dict[str, type[StoreError]] = {
    "ENOENT": NotFoundError,
    "EACCES": PermissionDeniedError,
    "EPERM": PermissionDeniedError,
    "EQUOTA": QuotaError,
    "E2BIG": TooBigError,
    "ENOSPC": NoSpaceError,
    "EAGAIN": AgainError,
    "EEXIST": ExistsError,
    "EINVAL": InvalidError,
}


def from_reply(payload: bytes, what: str) -> StoreError:
    """Return the error that an ERROR reply with `payload` stands for; `what` was asked for.

    A payload that is no error name gives a plain `StoreError` with code EIO: it is not quoted.
    """
    code = payload.rstrip(b"\0").decode("ascii", "replace")
    if not (1 < len(code) <= 16 and code.isalnum() and code[0] == "E"):
        code = "EIO"
    return _KINDS.get(code, StoreError)(f"{what}: {code}", code)
