# SPDX-License-Identifier: LGPL-2.1-or-later
"""One XenStore with dom0 and guests, in memory or with a real daemon, behind one interface for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from xenwarden_channel.client import StoreClient
from xenwarden_channel.fake import FakeGuest, FakeStore

if TYPE_CHECKING:
    from xenstored_offline import Xenstored

    from xenwarden_channel.guest import GuestStore

Wait = Callable[[Callable[[], object]], None]


class World(Protocol):
    """What conformance tests need of a XenStore."""

    @property
    def kind(self) -> str:
        """Return `fake`, `xenstored` or `oxenstored`."""

    @property
    def store(self) -> StoreClient | FakeStore:
        """Return dom0's connection."""

    def create(self, domid: int) -> None:
        """Make a domain."""

    def destroy(self, domid: int) -> None:
        """End a domain."""

    def guest(self, domid: int) -> GuestStore | FakeGuest:
        """Return the domain's connection."""


class FakeWorld:
    """XenStore in memory."""

    kind = "fake"

    def __init__(self) -> None:
        self.store = FakeStore()
        self.create = self.store.add_domain
        self.destroy = self.store.remove_domain
        self.guest = self.store.guest


class RealWorld:
    """A real daemon."""

    def __init__(self, daemon: Xenstored) -> None:
        self.kind = daemon.kind
        self.store = StoreClient(daemon.socket)
        self.create = daemon.create
        self.destroy = daemon.destroy
        self.guest = daemon.guest


class Heard:
    """Gathers a store's events, since each call of `events` clears them."""

    def __init__(self, store: StoreClient | FakeStore | GuestStore | FakeGuest) -> None:
        self._store = store
        self.events: list[tuple[str, str]] = []

    def has(self, *wanted: tuple[str, str]) -> bool:
        """Take in what has come and tell whether all `wanted` (path, token) have by now."""
        self.events += self._store.events()
        return set(wanted) <= set(self.events)

    def clear(self) -> None:
        """Forget all so far."""
        self._store.events()
        self.events.clear()
