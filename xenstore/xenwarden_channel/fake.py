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
import copy
import os
from typing import TYPE_CHECKING

from xenwarden_channel import errors, wire
from xenwarden_channel.eventtable import EventTable
from xenwarden_channel.guest import MAX_REQUEST
from xenwarden_channel.transaction import T, transact
from xenwarden_channel.tree import Tree, Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xenwarden_channel.transaction import Transaction


class FakeStore:
    """dom0's connection to a XenStore in memory."""

    def __init__(self) -> None:
        self.tree = Tree()
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
        self.tree.detach(self._watcher)

    def come_back(self) -> None:
        """Restore the connection as the client does: watches again, and a new generation."""
        self._connected = True
        self._generation += 1
        self._watcher.watches.clear()
        self.tree.attach(self._watcher)
        for path, token in self._events.watches():
            self.tree.watch(self._watcher, path, token)

    # --- the Store Protocol -----------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        """Return the node's value."""
        self._check()
        return self.tree.read(0, path)

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Return the values in order; None where a node is missing or unreadable."""
        values: list[bytes | None] = []
        for path in paths:
            try:
                values.append(self.read(path))
            except (errors.NotFoundError, errors.PermissionDeniedError):
                values.append(None)
        return values

    def write(self, path: str, value: bytes) -> None:
        """Write the node, making it and its parents."""
        self._check()
        _check_size(path, value, wire.MAX_PAYLOAD)
        self.tree.write(0, path, value)

    def write_many(self, items: Sequence[tuple[str, bytes]]) -> list[Exception | None]:
        """Write all; the answer has None for each that was written, else its error."""
        self._check()
        answers: list[Exception | None] = []
        for path, value in items:
            try:
                self.write(path, value)
                answers.append(None)
            except errors.StoreError as error:
                answers.append(error)
        return answers

    def mkdir(self, path: str) -> None:
        """Make the node with an empty value; nothing happens where it is there."""
        self._check()
        self.tree.mkdir(0, path)

    def remove(self, path: str) -> None:
        """Remove the node and all below; nothing happens where there is none."""
        self._check()
        with contextlib.suppress(errors.NotFoundError):
            self.tree.remove(0, path)

    def directory(self, path: str) -> list[str]:
        """Return the children's names."""
        self._check()
        return self.tree.directory(0, path)

    def permissions(self, path: str) -> list[str]:
        """Return the node's permissions, as `n0`, `r5`."""
        self._check()
        return self.tree.permissions(0, path)

    def set_permissions(self, path: str, permissions: Sequence[str]) -> None:
        """Set the node's permissions."""
        self._check()
        self.tree.set_permissions(0, path, permissions)

    def usage(self, domid: int) -> dict[str, int]:
        """Return what a domain holds of its quotas: `nodes`, `watches`."""
        self._check()
        return self.tree.usage(domid)

    def transact(self, body: Callable[[Transaction], T]) -> T:
        """Run `body` in a transaction, again where another writer was quicker; see `transaction.transact`."""
        self._check()
        return transact(FakeTransactions(self.tree).ask, body, 5.0)

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


class FakeTransactions:
    """Answers a transaction's requests from a copy of the tree, and repeats the writes at its end."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._copy = Tree()
        self._seen: dict[str, bytes | None] = {}
        self._writes: list[tuple[int, str, bytes]] = []

    def ask(self, op: int, _what: str, payload: bytes, _tx_id: int) -> bytes:
        """Answer one request as the daemon would."""
        raw, _nul, value = payload.partition(b"\0")
        path = raw.decode("ascii")
        if op == wire.TRANSACTION_START:
            self._copy.root = copy.deepcopy(self._tree.root)
            self._seen.clear()
            self._writes.clear()
            return b"1\0"
        if op == wire.TRANSACTION_END:
            if path == "T":
                self._commit()
            return b"OK\0"
        self._seen.setdefault(path, _value(self._tree, path))
        if op == wire.READ:
            return self._copy.read(0, path)
        self._do(self._copy, op, path, value)
        self._writes.append((op, path, value))
        return b"OK\0"

    def _commit(self) -> None:
        if any(_value(self._tree, path) != value for path, value in self._seen.items()):
            raise errors.AgainError("another writer was quicker")
        for op, path, value in self._writes:
            self._do(self._tree, op, path, value)

    @staticmethod
    def _do(tree: Tree, op: int, path: str, value: bytes) -> None:
        if op == wire.WRITE:
            _check_size(path, value, wire.MAX_PAYLOAD)
            tree.write(0, path, value)
        else:
            tree.remove(0, path)


def _value(tree: Tree, path: str) -> bytes | None:
    try:
        return tree.read(0, path)
    except errors.NotFoundError:
        return None


class FakeGuest:
    """One guest's connection to the same tree; relative paths are below its home."""

    def __init__(self, tree: Tree, domid: int) -> None:
        self._tree = tree
        self._domid = domid
        self._wanted: dict[tuple[str, str], None] = {}
        self._fired: dict[tuple[str, str], None] = {}
        self._fd = -1
        self._open()

    def read(self, path: str) -> bytes:
        """Return the node's value."""
        self._check()
        return self._tree.read(self._domid, path)

    def write(self, path: str, value: bytes) -> None:
        """Write the node, making it and its parents."""
        self._check()
        _check_size(path, value, MAX_REQUEST - wire.HEADER_SIZE)
        self._tree.write(self._domid, path, value)

    def remove(self, path: str) -> None:
        """Remove the node and all below; nothing happens where there is none."""
        self._check()
        with contextlib.suppress(errors.NotFoundError):
            self._tree.remove(self._domid, path)

    def watch(self, path: str, token: str) -> None:
        """Watch the node and all below; one event comes at once."""
        self._check()
        self._tree.watch(self._watcher, path, token)
        self._wanted[path, token] = None

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
            self._tree.watch(self._watcher, path, token)

    def close(self) -> None:
        """Close the connection."""
        if self._fd >= 0:
            self._tree.detach(self._watcher)
            os.close(self._fd)
            self._fd = -1
        self._fired.clear()

    def _open(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watcher = Watcher(self._domid, self._fire)
        self._tree.attach(self._watcher)

    def _fire(self, path: str, token: str) -> None:
        self._fired[path, token] = None
        os.eventfd_write(self._fd, 1)

    def _check(self) -> None:
        if self._fd < 0:
            raise errors.DisconnectedError("not connected")


def _check_size(path: str, value: bytes, most: int) -> None:
    if len(path) + 1 + len(value) > most:
        raise errors.TooBigError(f"{path}: longer than a request may be")
