# SPDX-License-Identifier: LGPL-2.1-or-later
"""Transactions that end: few tries, few requests, and a deadline for all of it.

While any transaction is open C xenstored lets all guests together write 200 times a second, and either
daemon may refuse the end of one that met another writer. So a transaction is a function that can be run
again, and it is short.
"""

from __future__ import annotations

import contextlib
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from xenwarden_channel import errors, wire

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[[int, str, bytes, int], bytes]

MAX_TRIES = 8
MAX_REQUESTS = 64  # in one try

T = TypeVar("T")


class Transaction:
    """What a transaction's body may do; each call as in `client.StoreClient`."""

    def __init__(self, ask: Ask, tx_id: int, until: float) -> None:
        self._ask = ask
        self._tx_id = tx_id
        self._until = until
        self._left = MAX_REQUESTS

    def read(self, path: str) -> bytes:
        """Return the node's value."""
        return self._request(wire.READ, path)

    def write(self, path: str, value: bytes) -> None:
        """Write the node, making it and its parents."""
        self._request(wire.WRITE, path, value)

    def remove(self, path: str) -> None:
        """Remove the node and all below; nothing happens where there is none."""
        try:
            self._request(wire.RM, path)
        except errors.NotFoundError:
            return

    def _request(self, op: int, path: str, value: bytes = b"") -> bytes:
        self._left -= 1
        if self._left < 0:
            raise errors.TooBigError(f"{path}: more than {MAX_REQUESTS} requests in one transaction")
        if monotonic() > self._until:
            raise errors.DeadlineError(f"{path}: the transaction takes too long")
        return self._ask(op, path, wire.string(path) + value, self._tx_id)


def transact(ask: Ask, body: Callable[[Transaction], T], deadline_s: float) -> T:
    """Run `body` until its transaction is taken, and return what it returned then.

    Raises:
        AgainError: other writers were quicker `MAX_TRIES` times.
        DeadlineError: not done within `deadline_s`.
        TooBigError: more than `MAX_REQUESTS` requests.
    """
    until = monotonic() + deadline_s
    for _ in range(MAX_TRIES):
        tx_id = int(ask(wire.TRANSACTION_START, "transaction", b"\0", 0).rstrip(b"\0"))
        try:
            result = body(Transaction(ask, tx_id, until))
        except BaseException:
            with contextlib.suppress(errors.StoreError):  # lost with the connection, as it should be
                ask(wire.TRANSACTION_END, "transaction", b"F\0", tx_id)
            raise
        try:
            ask(wire.TRANSACTION_END, "transaction", b"T\0", tx_id)
        except errors.AgainError:
            continue
        return result
    raise errors.AgainError(f"other writers were quicker {MAX_TRIES} times")
