# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which domains there are, and their side of the channel.

The list of domains comes from libxl on each tick; `@introduceDomain` and `@releaseDomain` are hints to
list again at once. Events of the store are hints too: they say which nodes to read, and a resync reads
all of them now and then. Nothing here lists a directory that a guest can write.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from xenwarden_channel import paths
from xenwarden_channel.errors import DisconnectedError, NotFoundError, StoreError
from xenwarden_channel.messages import MessageError
from xenwarden_host.audit import logfmt
from xenwarden_host.daemon.arp import Arp
from xenwarden_host.daemon.down import Down
from xenwarden_host.daemon.guests import Inbox
from xenwarden_host.daemon.headers import Headers
from xenwarden_host.daemon.policynodes import PolicyNodes

if TYPE_CHECKING:
    from collections.abc import Collection

    from xenwarden_host.protocols import Clock, Hypervisor, Store
    from xenwarden_host.records import DomainInfo, LimitKey, VmState

log = logging.getLogger("xenwarden.tracker")

_DOMAINS_TOKEN = "domains"  # noqa: S105  a watch token is no secret
_DISKS_TOKEN = "disks"  # noqa: S105  likewise
_DISKS = "/local/domain/0/backend/vbd/"
_POLICY_TOKEN = "policy"  # noqa: S105  likewise
_UP_TOKEN = "up/"  # noqa: S105  likewise
_RESYNC_S = 30.0
_COMPLAIN_EVERY_S = 60.0
_ALARM_EVERY_S = 10.0
_KNOWN_MAX = 4096  # UUIDs whose running time is remembered


class Guest:
    """One running domain: a (UUID, domid), with its side of the channel."""

    def __init__(self, info: DomainInfo, first_seq: int) -> None:
        self.info = info
        self.inbox = Inbox()
        self.down = Down(info.domid, first_seq)
        self.watched = False
        self.ready = False  # `~/xenwarden` is there, and its reports are watched
        self.status: tuple[VmState, frozenset[LimitKey]] | None = None  # as it was last told
        self.unread = set(paths.UP)
        self.next_complaint_s = float("-inf")
        self.next_history_s = float("-inf")  # when its brief history is due
        self.next_alarm_s = float("-inf")  # when it may again ask for a tick out of turn


class Tracker:
    """Keep `guests` by domid up to date, and read and write their nodes.

    `passive` (a dry run): read what is there, write and make nothing.
    """

    def __init__(self, hypervisor: Hypervisor, store: Store, clock: Clock, *, passive: bool) -> None:
        self._hypervisor = hypervisor
        self._store = store
        self._clock = clock
        self._passive = passive
        self.guests: dict[int, Guest] = {}
        self.headers = Headers()
        self.arp = Arp()
        self.policy_nodes = PolicyNodes(store)
        self.domains_changed = True  # a hint of the store's
        self.disks_changed: set[int] = set()  # likewise: domids of which a disk connects, or goes
        self.store_lost = False
        self._generation = -1
        self._next_resync_s = 0.0
        self._known: dict[str, tuple[float, float]] = {}  # UUID: seconds run before, unix time last seen
        self._first_seen_s: dict[str, float] = {}

    # --- domains ---------------------------------------------------------------------------------

    def refresh(self) -> list[DomainInfo]:
        """List the domains, begin with new ones, forget those that are gone.

        Raises:
            HypervisorError, StoreError: not listed; nothing changed.
        """
        try:
            domains = self._hypervisor.list_domains()
        except StoreError as error:  # names and kinds of domains come from there
            self._note_lost(error)
            raise
        self.domains_changed = False
        now_s = self._clock.monotonic()
        listed = {info.domid: info for info in domains}
        for domid, guest in list(self.guests.items()):
            if domid not in listed or listed[domid].uuid != guest.info.uuid:
                del self.guests[domid]
                self._forget(guest)
        for domid, info in listed.items():
            if domid in self.guests:
                self.guests[domid].info = info
            else:
                self.guests[domid] = Guest(info, int(self._clock.unix()))
            if info.paused:
                self.guests[domid].inbox.excuse(now_s)  # it cannot speak
            self._first_seen_s.setdefault(info.uuid, now_s)
        gone = self._first_seen_s.keys() - {info.uuid for info in domains}
        for uuid in gone:
            known_s = self.known_s(uuid, now_s)
            self._known.pop(uuid, None)  # to the end of the row: who is gone for longest goes first
            self._known[uuid] = (known_s, self._clock.unix())
            del self._first_seen_s[uuid]
        while len(self._known) > _KNOWN_MAX:
            del self._known[next(iter(self._known))]
        self._connect_guests(now_s)
        return domains

    def vms(self) -> dict[str, Guest]:
        """Return the one guest that stands for each VM: while it migrates on this host it has two domains.

        The one that runs: the receiving domain is paused until the old one has stopped.
        """
        out: dict[str, Guest] = {}
        for guest in self.guests.values():
            other = out.get(guest.info.uuid)
            if other is None or _rank(guest) > _rank(other):
                out[guest.info.uuid] = guest
        return out

    def known_s(self, uuid: str, now_s: float) -> float:
        """Return for how long dom0 has seen this VM run, daemon restarts included."""
        before_s = self._known.get(uuid, (0.0, 0.0))[0]
        return before_s + max(0.0, now_s - self._first_seen_s.get(uuid, now_s))

    def forget(self, uuid: str) -> None:
        """Take a VM for one that was never seen before."""
        self._known.pop(uuid, None)
        if uuid in self._first_seen_s:
            self._first_seen_s[uuid] = self._clock.monotonic()

    def dump(self) -> dict[str, list[float]]:
        """Return how long each VM was seen, for `restore` after a restart."""
        now_s, unix_s = self._clock.monotonic(), self._clock.unix()
        known = dict(self._known)
        known.update({uuid: (self.known_s(uuid, now_s), unix_s) for uuid in self._first_seen_s})
        newest = sorted(known.items(), key=lambda item: item[1][1], reverse=True)[:_KNOWN_MAX]
        return {uuid: list(value) for uuid, value in newest}

    def restore(self, dumped: dict[str, list[float]]) -> None:
        """Take over what an earlier daemon dumped."""
        self._known = {uuid: (float(value[0]), float(value[1])) for uuid, value in dumped.items()}

    # --- the store -------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take the store's events and note what to read."""
        for path, token in self._store.events():
            if token == _DOMAINS_TOKEN:
                self.domains_changed = True
            elif token == _DISKS_TOKEN:
                domid = path.removeprefix(_DISKS).partition("/")[0]
                if domid.isdigit():
                    self.disks_changed.add(int(domid))
            elif token == _POLICY_TOKEN:
                self.policy_nodes.note(path)
            elif token.startswith(_UP_TOKEN):
                guest = self.guests.get(int(token[len(_UP_TOKEN) :]))
                if guest is None:
                    continue
                node = path.removeprefix(paths.absolute(guest.info.domid, ""))
                if node in paths.UP or (
                    not guest.info.domid and (node == paths.UP_ARP or self.headers.has(node))
                ):
                    guest.unread.add(node)
                elif paths.UP_DIR.startswith(node):
                    guest.unread.update(paths.UP)  # made or removed as a whole

    def read(self) -> bool:
        """Read the nodes that changed; return whether a report newly shows level 2.

        Of one guest that counts now and then only: one that goes up and down would drive the ticks.
        """
        now_s = self._clock.monotonic()
        if now_s >= self._next_resync_s:
            self._next_resync_s = now_s + _RESYNC_S
            for guest in self.guests.values():
                guest.unread.update(paths.UP)
        wanted = [
            (guest, node) for guest in self.guests.values() if guest.unread for node in sorted(guest.unread)
        ]
        if not wanted:
            return False
        try:
            values = self._store.read_many([paths.absolute(guest.info.domid, node) for guest, node in wanted])
        except StoreError as error:
            self._note_lost(error)
            return False
        raised = False
        for (guest, node), value in zip(wanted, values, strict=True):
            guest.unread.discard(node)
            try:
                if node == paths.UP_ARP:
                    self.arp.take(value)
                elif node not in paths.UP:
                    self.headers.take(node, value, now_s)
                elif guest.inbox.take(node, value, now_s) and now_s >= guest.next_alarm_s:
                    guest.next_alarm_s = now_s + _ALARM_EVERY_S
                    raised = True
            except MessageError as error:
                self._complain(guest, node, error, now_s)
        return raised

    def read_policy(self) -> dict[str, bytes] | None:
        """Return the nodes that override the policy, None where nothing changed or they cannot be read."""
        if self.store_lost:
            return None
        try:
            return self.policy_nodes.read()
        except StoreError as error:
            self._note_lost(error)
            return None

    def write(self) -> None:
        """Write the nodes that are not as they should be."""
        if self._passive:
            return
        items = [
            (guest, node, path, value)
            for guest in self.guests.values()
            if guest.ready and not guest.info.dying
            for node, path, value in guest.down.pending()
        ]
        if not items:
            return
        try:
            results = self._store.write_many([(path, value) for _guest, _node, path, value in items])
        except StoreError as error:
            self._note_lost(error)
            return
        for (guest, node, path, value), failure in zip(items, results, strict=True):
            if failure is None:
                guest.down.written(node)
                log.debug("%s", logfmt({"event": "written", "path": path, "value": value.decode("ascii")}))
            elif isinstance(failure, DisconnectedError):
                self._note_lost(failure)
                return
            else:
                self._complain(guest, node, failure, self._clock.monotonic())

    def excuse(self, but: Collection[int] = (), longest_s: float = float("inf")) -> None:
        """Let no agent be called silent for a time in which it was not to be heard.

        `but` these domids, and those of which nothing was heard for `longest_s`: that excuses nobody longer.
        """
        now_s = self._clock.monotonic()
        for domid, guest in self.guests.items():
            if domid not in but and (guest.inbox.report_age_s(now_s) or 0.0) <= longest_s:
                guest.inbox.excuse(now_s)

    def _connect_guests(self, now_s: float) -> None:
        """Watch what is not watched yet, and make what is missing; all of it after a reconnect."""
        if not self._store.connected():
            self._note_lost(None)
            return
        try:
            generation = self._store.generation()
            if generation != self._generation:
                self._begin(generation)
            for guest in list(self.guests.values()):
                if not guest.ready and not guest.info.dying:
                    self._begin_guest(guest)
        except StoreError as error:
            self._note_lost(error)
            return
        if self.store_lost:
            self.store_lost = False
            self._next_resync_s = now_s
            self.excuse()
            log.warning("event=store-returned generation=%d", generation)

    def _begin(self, generation: int) -> None:
        """Take up a connection that is new: nothing that was written or read before counts."""
        if self._generation == -1:
            self._store.watch("@introduceDomain", _DOMAINS_TOKEN)
            self._store.watch("@releaseDomain", _DOMAINS_TOKEN)
            self._store.watch(_DISKS.rstrip("/"), _DISKS_TOKEN)
            self._store.watch(paths.TOOL_DIR, _POLICY_TOKEN)
        if not self._passive:
            for directory in (paths.TOOL_DIR, paths.POLICY_DIR, paths.VM_DIR):
                self._store.mkdir(directory)
                self._store.set_permissions(directory, ["n0"])  # what is made below inherits it
        self.policy_nodes.note(paths.TOOL_DIR)
        self._remove_orphans()
        self._generation = generation
        for guest in self.guests.values():
            guest.ready = False
            guest.unread.update(paths.UP)
            guest.down.lost()

    def _begin_guest(self, guest: Guest) -> None:
        domid = guest.info.domid
        try:
            if not self._passive:
                directory = paths.absolute(domid, paths.DOWN_DIR)
                self._store.mkdir(directory)
                self._store.set_permissions(directory, ["n0", f"r{domid}"])
            if not guest.watched:  # the client re-makes watches by itself
                self._store.watch(paths.absolute(domid, paths.UP_DIR), f"{_UP_TOKEN}{domid}")
                guest.watched = True
        except DisconnectedError:
            raise
        except StoreError as error:
            now_s = self._clock.monotonic()
            self._complain(guest, paths.DOWN_DIR, error, now_s)
            return
        guest.ready = True

    def _forget(self, guest: Guest) -> None:
        """Stop watching a domain that is gone, and take away what a late write may have left in its home."""
        if not guest.watched:
            return
        domid = guest.info.domid
        try:
            self._store.unwatch(paths.absolute(domid, paths.UP_DIR), f"{_UP_TOKEN}{domid}")
            if not self._passive:
                self._remove_home(domid)
        except StoreError as error:
            log.info("%s", logfmt({"event": "forget-incomplete", "domid": domid, "error": str(error)}))

    def _remove_orphans(self) -> None:
        """Remove our nodes of domains that are gone, left by a daemon that died while one did."""
        if self._passive:
            return
        for name in self._store.directory("/local/domain"):
            if name.isdigit() and int(name) not in self.guests:
                self._remove_home(int(name))

    def _remove_home(self, domid: int) -> None:
        """Remove `~/xenwarden` of a domain that is gone, and its home where that leaves it empty."""
        home = paths.absolute(domid, "").rstrip("/")
        try:
            children = self._store.directory(home)  # dom0's: a guest cannot make nodes here
        except NotFoundError:
            return
        if paths.DOWN_DIR in children:
            self._store.remove(home if children == [paths.DOWN_DIR] else f"{home}/{paths.DOWN_DIR}")

    def _note_lost(self, error: StoreError | None) -> None:
        if not self.store_lost:
            self.store_lost = True
            log.error(
                "%s",
                logfmt({"event": "store-lost", "error": str(error or "no connection"), "limits": "kept"}),
            )

    def _complain(self, guest: Guest, node: str, error: Exception, now_s: float) -> None:
        """Log what is wrong with a guest, at most once a minute for each."""
        if now_s >= guest.next_complaint_s:
            guest.next_complaint_s = now_s + _COMPLAIN_EVERY_S
            log.warning(
                "%s",
                logfmt(
                    {
                        "event": "guest-refused",
                        "vm": guest.info.name,
                        "domid": guest.info.domid,
                        "node": node,
                        "error": str(error),
                        "refused": guest.inbox.bad_values,
                    }
                ),
            )


def _rank(guest: Guest) -> tuple[bool, bool, int]:
    return (not guest.info.dying, not guest.info.paused, guest.info.domid)
