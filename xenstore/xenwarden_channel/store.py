# SPDX-License-Identifier: LGPL-2.1-or-later
"""The calls of every store, dom0's, a guest's and the ones in memory: each is made of wire requests.

The guest agent imports this module: keep it light.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from time import monotonic

from xenwarden_channel import errors, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xenwarden_channel.transaction import T, Transaction

    Answer = tuple[int, int, bytes]  # operation, request id, payload


class Store(ABC):
    """XenStore over a connection that makes requests and brings their answers.

    Every call raises `errors.StoreError` and its kinds and ends within the connection's deadline.
    A guest's relative paths are below its own home.
    """

    _deadline_s: float

    @abstractmethod
    def _exchange(self, op: int, payloads: Sequence[bytes], tx_id: int = 0) -> list[Answer]:
        """Make all requests, pipelined, and return their answers in order: `op`'s, or ERROR's.

        Raises:
            TooBigError: a payload is longer than a request may be; none was made.
            DisconnectedError, DeadlineError: not all answers came; what was done is not known.
        """

    def read(self, path: str) -> bytes:
        """Return the node's value."""
        return self._ask(wire.READ, path, wire.string(path))

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Return the values in order, pipelined; None where a node is missing or unreadable.

        Raises:
            StoreError: one of the answers is another error than ENOENT and EACCES.
        """
        values: list[bytes | None] = []
        for path, (op, _rq_id, payload) in zip(
            paths, self._exchange(wire.READ, [wire.string(path) for path in paths]), strict=True
        ):
            if op == wire.READ:
                values.append(payload)
            elif payload in (b"ENOENT\0", b"EACCES\0"):
                values.append(None)
            else:
                raise errors.from_reply(payload, path)
        return values

    def write(self, path: str, value: bytes) -> None:
        """Write the node, making it and its parents."""
        self._ask(wire.WRITE, path, wire.string(path) + value)

    def write_many(self, items: Sequence[tuple[str, bytes]]) -> list[Exception | None]:
        """Write all, pipelined; the answer has None for each that was written, else its error.

        Raises:
            DisconnectedError, DeadlineError: not all answers came; which writes were done is not known.
        """
        answers = self._exchange(wire.WRITE, [wire.string(path) + value for path, value in items])
        return [
            errors.from_reply(payload, path) if op == wire.ERROR else None
            for (path, _value), (op, _rq_id, payload) in zip(items, answers, strict=True)
        ]

    def mkdir(self, path: str) -> None:
        """Make the node with an empty value; nothing happens where it is there."""
        self._ask(wire.MKDIR, path, wire.string(path))

    def remove(self, path: str) -> None:
        """Remove the node and all below; nothing happens where there is none."""
        try:  # not contextlib: an import that the agent does without
            self._ask(wire.RM, path, wire.string(path))
        except errors.NotFoundError:
            return

    def directory(self, path: str) -> list[str]:
        """Return the children's names, however many. In dom0 never for a directory that a guest can write.

        Raises:
            TooBigError: more than one answer holds, of a daemon that does not tell them in parts
                (oxenstored to a guest).
        """
        try:
            listed = self._ask(wire.DIRECTORY, path, wire.string(path))
        except errors.TooBigError:
            try:
                listed = self._directory_parts(path)
            except errors.StoreError as error:
                if error.code == "ENOSYS":
                    raise errors.TooBigError(f"{path}: too many children for one answer") from None
                raise
        return [name for name in listed.decode("ascii").split("\0") if name]

    def permissions(self, path: str) -> list[str]:
        """Return the node's permissions, as `n0`, `r5`."""
        return self._ask(wire.GET_PERMS, path, wire.string(path)).decode("ascii").rstrip("\0").split("\0")

    def set_permissions(self, path: str, permissions: Sequence[str]) -> None:
        """Set the node's permissions."""
        entries = b"".join(wire.string(text) for text in permissions)
        self._ask(wire.SET_PERMS, path, wire.string(path) + entries)

    def transact(self, body: Callable[[Transaction], T]) -> T:
        """Run `body` in a transaction, again where another writer was quicker; see `transaction.transact`."""
        from xenwarden_channel.transaction import transact  # noqa: PLC0415 - the agent has none

        return transact(self._ask, body, self._deadline_s)

    def _ask(self, op: int, what: str, payload: bytes, tx_id: int = 0) -> bytes:
        answer_op, _rq_id, answer = self._exchange(op, (payload,), tx_id)[0]
        if answer_op == wire.ERROR:
            raise errors.from_reply(answer, what)
        return answer

    def _directory_parts(self, path: str) -> bytes:
        """List by parts; start again whenever the directory changed between two of them."""
        until = monotonic() + self._deadline_s
        while monotonic() < until:
            generation = None
            names = b""
            while True:
                part = self._ask(wire.DIRECTORY_PART, path, wire.string(path) + b"%d\0" % len(names))
                now, _nul, children = part.partition(b"\0")
                if generation not in (None, now):
                    break
                generation = now
                if children.endswith(b"\0\0") or children in (b"", b"\0"):
                    return names + children
                names += children
        raise errors.DeadlineError(f"{path}: changes faster than it can be listed")
