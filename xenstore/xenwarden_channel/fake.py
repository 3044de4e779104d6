# SPDX-License-Identifier: LGPL-2.1-or-later
"""XenStore without a daemon: dom0's view and guests' views of one tree in memory.

    store = FakeStore()
    guest = store.guest(5)
    guest.write("data/xenwarden/report", b"...")
    store.read("/local/domain/5/data/xenwarden/report")

`FakeStore` has the API of `client.StoreClient`, `FakeGuest` that of `guest.GuestStore`. Loss is
played with `lose` and `come_back`.
"""

from __future__ import annotations

import contextlib
import os
from abc import abstractmethod
from typing import TYPE_CHECKING

from xenwarden_channel import errors, wire
from xenwarden_channel.eventtable import EventTable
from xenwarden_channel.guest import MAX_REQUEST
from xenwarden_channel.store import Store
from xenwarden_channel.tree import Tree, Watcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xenwarden_channel.store import Answer

MAX_TRANSACTIONS = 10  # open at a time, of one guest; C xenstored takes one more


class FakeConnection(Store):
    """Answers requests from a tree in memory, in the name of one domain."""

    _deadline_s = 5.0

    def __init__(self, tree: Tree, domid: int, max_payload: int) -> None:
        self.tree = tree
        self._domid = domid
        self._max_payload = max_payload
        self._transactions: dict[int, FakeTransaction] = {}
        self._last_tx_id = 0

    @abstractmethod
    def _check(self) -> None:
        """Raise DisconnectedError where there is no connection."""

    def _exchange(self, op: int, payloads: Sequence[bytes], tx_id: int = 0) -> list[Answer]:
        self._check()
        if max(map(len, payloads), default=0) > self._max_payload:
            raise errors.TooBigError("longer than a request may be")
        answers: list[Answer] = []
        for payload in payloads:
            try:
                answers.append((op, 0, self._answer(op, payload, tx_id)))
            except errors.StoreError as error:
                answers.append((wire.ERROR, 0, error.code.encode() + b"\0"))
        return answers

    def _answer(self, op: int, payload: bytes, tx_id: int) -> bytes:
        if op == wire.TRANSACTION_START:
            if self._domid and len(self._transactions) > MAX_TRANSACTIONS:
                raise errors.NoSpaceError("too many transactions")
            self._last_tx_id += 1
            self._transactions[self._last_tx_id] = FakeTransaction(self.tree, self._domid)
            return b"%d\0" % self._last_tx_id
        if op == wire.TRANSACTION_END:
            transaction = self._transactions.pop(tx_id)
            if payload == b"T\0":
                transaction.commit()
            return b"OK\0"
        if tx_id:
            return self._transactions[tx_id].answer(op, payload)
        return _do(self.tree, self._domid, op, payload)


class FakeTransaction:
    """Answers a transaction's requests from a copy of the tree, and repeats the writes at its end."""

    def __init__(self, tree: Tree, domid: int) -> None:
        self._tree = tree
        self._domid = domid
        self._copy = tree.copy()
        self._seen: dict[str, bytes | None] = {}
        self._writes: list[tuple[int, bytes]] = []

    def answer(self, op: int, payload: bytes) -> bytes:
        """Answer one request as the daemon would."""
        path = payload.partition(b"\0")[0].decode("ascii")
        self._seen.setdefault(path, self._value(path))
        answer = _do(self._copy, self._domid, op, payload)
        if op != wire.READ:
            self._writes.append((op, payload))
        return answer

    def commit(self) -> None:
        """Do to the tree what was done to the copy."""
        if any(self._value(path) != value for path, value in self._seen.items()):
            raise errors.AgainError("another writer was quicker")
        for op, payload in self._writes:
            _do(self._tree, self._domid, op, payload)

    def _value(self, path: str) -> bytes | None:
        try:
            return self._tree.read(self._domid, path)
        except errors.StoreError:
            return None


def _do(tree: Tree, domid: int, op: int, payload: bytes) -> bytes:
    """Do one request in the name of a domain and return its answer.

    A directory of any size is one answer, as oxenstored has it.
    """
    raw, _nul, rest = payload.partition(b"\0")
    path = raw.decode("ascii")
    if op == wire.READ:
        return tree.read(domid, path)
    if op == wire.DIRECTORY:
        return "".join(f"{name}\0" for name in tree.directory(domid, path)).encode("ascii")
    if op == wire.GET_PERMS:
        return "".join(f"{entry}\0" for entry in tree.permissions(domid, path)).encode("ascii")
    if op == wire.WRITE:
        tree.write(domid, path, rest)
    elif op == wire.MKDIR:
        tree.mkdir(domid, path)
    elif op == wire.RM:
        tree.remove(domid, path)
    elif op == wire.SET_PERMS:
        tree.set_permissions(domid, path, rest.decode("ascii").split("\0")[:-1])
    else:
        raise errors.StoreError("no such request", "ENOSYS")
    return b"OK\0"


class FakeStore(FakeConnection):
    """dom0's connection to a XenStore in memory."""

    def __init__(self) -> None:
        super().__init__(Tree(), 0, wire.MAX_PAYLOAD)
        self._events = EventTable()
        self._watcher = Watcher(0, lambda path, token: self._events.fire([(path, token)]))
        self.tree.attach(self._watcher)
        self._generation = 1
        self._connected = True
        self._guests: dict[int, list[FakeGuest]] = {}

    # --- play -------------------------------------------------------------------------------------

    def add_domain(self, domid: int) -> None:
        """Make a domain's home as libxl does: `~` for it to read, `~/data` its own."""
        home = f"/local/domain/{domid}"
        self.tree.write(0, home, b"")
        self.tree.set_permissions(0, home, ["n0", f"r{domid}"])
        self.tree.write(0, f"{home}/data", b"")
        self.tree.set_permissions(0, f"{home}/data", [f"n{domid}"])
        self._guests.setdefault(domid, [])
        self.tree.announce("@introduceDomain")

    def remove_domain(self, domid: int) -> None:
        """End a domain: its connections break and its home goes, as when libxl destroys it."""
        for guest in self._guests.pop(domid, []):
            guest.close()
        self.tree.remove(0, f"/local/domain/{domid}")
        self.tree.announce("@releaseDomain")

    def guest(self, domid: int) -> FakeGuest:
        """Return a connection of the domain, which is made where it is not there yet."""
        if domid not in self._guests:
            self.add_domain(domid)
        guest = FakeGuest(self.tree, domid)
        self._guests[domid].append(guest)
        return guest

    def lose(self) -> None:
        """Break dom0's connection: every call raises DisconnectedError until `come_back`."""
        self._connected = False
        self._transactions.clear()
        self.tree.detach(self._watcher)

    def come_back(self) -> None:
        """Restore the connection as the client does: watches again, and a new generation."""
        self._connected = True
        self._generation += 1
        self._watcher.watches.clear()
        self.tree.attach(self._watcher)
        for path, token in self._events.watches():
            self.tree.watch(self._watcher, path, token)

    # --- as StoreClient has it --------------------------------------------------------------------

    def usage(self, domid: int) -> dict[str, int]:
        """Return what a domain holds of its quotas: `nodes`, `watches`."""
        self._check()
        return self.tree.usage(domid)

    def watch(self, path: str, token: str) -> None:
        """Watch the node and all below; one event comes at once."""
        self._check()
        if self._events.add_watch(path, token):
            try:
                self.tree.watch(self._watcher, path, token)
            except errors.StoreError:
                self._events.remove_watch(path, token)
                raise

    def unwatch(self, path: str, token: str) -> None:
        """Stop watching."""
        self._events.remove_watch(path, token)
        self._check()
        with contextlib.suppress(errors.NotFoundError):
            self.tree.unwatch(self._watcher, path, token)

    def events(self) -> list[tuple[str, str]]:
        """Return and clear the (path, token) events since the last call, each pair once."""
        return self._events.take()

    def event_fd(self) -> int:
        """Return a descriptor that is readable while `events` has something to return."""
        return self._events.fileno()

    def generation(self) -> int:
        """Return a number that rises with each reconnect."""
        return self._generation

    def connected(self) -> bool:
        """Tell whether the connection stands now."""
        return self._connected

    def close(self) -> None:
        """Close the connection."""
        if self._connected:
            self.lose()
        self._events.close()

    def _check(self) -> None:
        if not self._connected:
            raise errors.DisconnectedError("no connection to xenstored")


class FakeGuest(FakeConnection):
    """One guest's connection to the same tree; relative paths are below its home."""

    def __init__(self, tree: Tree, domid: int) -> None:
        super().__init__(tree, domid, MAX_REQUEST - wire.HEADER_SIZE)
        self._wanted: dict[tuple[str, str], None] = {}
        self._fired: dict[tuple[str, str], None] = {}
        self._fd = -1
        self._open()

    def watch(self, path: str, token: str) -> None:
        """Watch the node and all below; one event comes at once."""
        self._check()
        self.tree.watch(self._watcher, path, token)
        self._wanted[path, token] = None

    def unwatch(self, path: str, token: str) -> None:
        """Stop watching."""
        self._wanted.pop((path, token), None)
        self._check()
        with contextlib.suppress(errors.NotFoundError):
            self.tree.unwatch(self._watcher, path, token)

    def events(self) -> list[tuple[str, str]]:
        """Return and clear the (path, token) events since the last call, each pair once."""
        self._check()
        found = list(self._fired)
        self._fired.clear()
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        return found

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._fd

    def reconnect(self) -> None:
        """Connect again and watch again all that was watched."""
        self.close()
        self._open()
        for path, token in self._wanted:
            self.tree.watch(self._watcher, path, token)

    def close(self) -> None:
        """Close the connection."""
        if self._fd >= 0:
            self.tree.detach(self._watcher)
            os.close(self._fd)
            self._fd = -1
        self._transactions.clear()
        self._fired.clear()

    def _open(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watcher = Watcher(self._domid, self._fire)
        self.tree.attach(self._watcher)

    def _fire(self, path: str, token: str) -> None:
        self._fired[path, token] = None
        os.eventfd_write(self._fd, 1)

    def _check(self) -> None:
        if self._fd < 0:
            raise errors.DisconnectedError("not connected")
