# SPDX-License-Identifier: LGPL-2.1-or-later
"""XenStore in memory: nodes, permissions, quotas and watches as C xenstored 4.17 has them.

The conformance suite runs the same tests on this and on both real daemons. Where those two differ,
this follows C xenstored.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from xenwarden_channel import errors, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_NODES = 1000  # owned by one guest
MAX_NODE_SIZE = 2048  # of a node that a guest writes: record, value and names of children
MAX_WATCHES = 128  # of one guest; C xenstored takes one more
MAX_PERMISSIONS = 5  # entries on a node of a guest
MAX_PATH = 1024  # below a domain's home

_RECORD_SIZE = 24  # C xenstored's own part of a node, and 8 for each permission
_PATH_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-/_@")


class Node:
    """One node. `permissions` as on the wire: the owner's entry first, such as `n0`, `r5`."""

    __slots__ = ("children", "permissions", "value")

    def __init__(self, permissions: Sequence[str]) -> None:
        self.value = b""
        self.permissions = list(permissions)
        self.children: dict[str, Node] = {}

    def owner(self) -> int:
        """Return the domid that owns the node."""
        return int(self.permissions[0][1:])

    def allows(self, domid: int, wanted: str) -> bool:
        """Tell whether `domid` may read (`r`) or write (`w`)."""
        if domid in (0, self.owner()):
            return True
        letter = self.permissions[0][0]
        for entry in self.permissions[1:]:
            if int(entry[1:]) == domid:
                letter = entry[0]
                break
        return letter in (wanted, "b")

    def size(self) -> int:
        """Return what C xenstored counts against a guest's limit."""
        names = sum(len(name) + 1 for name in self.children)
        return _RECORD_SIZE + 8 * len(self.permissions) + len(self.value) + names


class Watcher:
    """One connection's watches; `fired` is called with each (path, token) event."""

    def __init__(self, domid: int, fired: Callable[[str, str], None]) -> None:
        self.domid = domid
        self.fired = fired
        self.watches: dict[tuple[str, str], bool] = {}  # (absolute path, token): given as relative


class Tree:
    """All nodes and watchers. Every call is made in the name of a domid; 0 may do everything."""

    def __init__(self) -> None:
        self.root = Node(["n0"])
        self._watchers: list[Watcher] = []
        self._owned: dict[int, int] = {}
        self.write(0, "/tool/xenstored", b"")
        self.write(0, "/local/domain", b"")

    def copy(self) -> Tree:
        """Return all nodes once more, with nobody who watches them."""
        tree = Tree()
        tree.root = copy.deepcopy(self.root)
        tree._owned = dict(self._owned)
        return tree

    # --- requests ---------------------------------------------------------------------------------

    def read(self, domid: int, path: str) -> bytes:
        """Return the node's value."""
        return self._get(domid, path, "r").value

    def directory(self, domid: int, path: str) -> list[str]:
        """Return the children's names."""
        return list(self._get(domid, path, "r").children)

    def write(self, domid: int, path: str, value: bytes) -> None:
        """Write the node, making it and its parents."""
        path = absolute(domid, path)
        node = self._find(path)
        if node is None:
            node = self._make(domid, path, len(value))
        else:
            self._get(domid, path, "w")
            if domid and node.size() - len(node.value) + len(value) >= MAX_NODE_SIZE:
                raise errors.NoSpaceError(f"{path}: value too long")
        node.value = value
        self._fire(path, node)

    def mkdir(self, domid: int, path: str) -> None:
        """Make the node; nothing happens where it is there."""
        path = absolute(domid, path)
        if self._find(path) is None:
            self._fire(path, self._make(domid, path, 0))
        else:
            self._get(domid, path, "w")

    def remove(self, domid: int, path: str) -> None:
        """Remove the node and all below; NotFoundError where not even its parent is there."""
        path = absolute(domid, path)
        try:
            node = self._get(domid, path, "w")
        except errors.NotFoundError:
            if self._find(_parent(path)) is None:
                raise
            return
        if path == "/":
            raise errors.InvalidError("/: cannot be removed")
        for below, gone in _walk(path, node):
            # As the daemon does: watchers above hear of the topmost node only.
            self._fire(below, gone, exact=below != path)
            self._count(gone.owner(), -1)
        parent = self._find(_parent(path))
        if parent is not None:
            del parent.children[path.rpartition("/")[2]]

    def permissions(self, domid: int, path: str) -> list[str]:
        """Return the node's permissions."""
        return list(self._get(domid, path, "r").permissions)

    def set_permissions(self, domid: int, path: str, permissions: Sequence[str]) -> None:
        """Set them; the node's owner and dom0 may, only dom0 may change the owner."""
        for entry in permissions:
            if not (entry and entry[0] in "nrwb" and entry[1:].isdecimal()):
                raise errors.InvalidError(f"{path}: bad permissions")
        if not permissions:
            raise errors.InvalidError(f"{path}: no permissions")
        if domid and len(permissions) > MAX_PERMISSIONS:
            raise errors.NoSpaceError(f"{path}: too many permissions")
        path = absolute(domid, path)
        node = self._get(domid, path, "w")
        owner = node.owner()
        if domid not in (0, owner) or (domid and int(permissions[0][1:]) != owner):
            raise errors.PermissionDeniedError(f"{path}: not the owner")
        old = Node(node.permissions)
        self._count(owner, -1)
        node.permissions = list(permissions)
        self._count(node.owner(), 1)
        self._fire(path, node, before=old)

    def usage(self, domid: int) -> dict[str, int]:
        """Return how many nodes the domain owns and how many watches it has."""
        watches = sum(len(watcher.watches) for watcher in self._watchers if watcher.domid == domid)
        return {"nodes": self._owned.get(domid, 0), "watches": watches}

    # --- watches ----------------------------------------------------------------------------------

    def attach(self, watcher: Watcher) -> None:
        """Let a connection watch."""
        self._watchers.append(watcher)

    def detach(self, watcher: Watcher) -> None:
        """Forget a connection and its watches."""
        self._watchers.remove(watcher)

    def watch(self, watcher: Watcher, path: str, token: str) -> None:
        """Add a watch; it fires at once."""
        special = path.startswith("@")
        relative = not special and not path.startswith("/")
        full = path if special else absolute(watcher.domid, path)
        if (full, token) in watcher.watches:
            raise errors.ExistsError(f"{path}: watched already")
        if watcher.domid and len(watcher.watches) > MAX_WATCHES:
            raise errors.TooBigError(f"{path}: too many watches")
        watcher.watches[full, token] = relative
        watcher.fired(path, token)

    def unwatch(self, watcher: Watcher, path: str, token: str) -> None:
        """Remove a watch."""
        full = path if path.startswith("@") else absolute(watcher.domid, path)
        if watcher.watches.pop((full, token), None) is None:
            raise errors.NotFoundError(f"{path}: not watched")

    def announce(self, special: str) -> None:
        """Fire `@introduceDomain` or `@releaseDomain`."""
        for watcher in self._watchers:
            for path, token in list(watcher.watches):
                if path == special and not watcher.domid:
                    watcher.fired(path, token)

    # --- below ------------------------------------------------------------------------------------

    def _find(self, path: str) -> Node | None:
        node = self.root
        for name in path.split("/")[1:] if path != "/" else ():
            found = node.children.get(name)
            if found is None:
                return None
            node = found
        return node

    def _get(self, domid: int, path: str, wanted: str) -> Node:
        path = absolute(domid, path)
        node = self._find(path)
        if node is not None and node.allows(domid, wanted):
            return node
        # A refusal tells nothing about a node whose nearest parent may not be used that way.
        error = errors.NotFoundError if node is None else errors.PermissionDeniedError
        above = self._nearest(_parent(path))
        if not above.allows(domid, wanted):
            error = errors.PermissionDeniedError
        raise error(path)

    def _nearest(self, path: str) -> Node:
        while (node := self._find(path)) is None:
            path = _parent(path)
        return node

    def _make(self, domid: int, path: str, value_size: int) -> Node:
        """Make the node and its missing parents, or nothing at all."""
        missing = []
        above = path
        while (parent := self._find(above)) is None:
            above, _slash, name = above.rpartition("/")
            above = above or "/"
            missing.append(name)
        if not parent.allows(domid, "w"):
            raise errors.PermissionDeniedError(path)
        permissions = list(parent.permissions)
        if domid:
            permissions[0] = permissions[0][0] + str(domid)
            if self._owned.get(domid, 0) + len(missing) > MAX_NODES:
                raise errors.NoSpaceError(f"{path}: too many nodes")
            grown = parent.size() + len(missing[-1]) + 1
            if grown >= MAX_NODE_SIZE or Node(permissions).size() + value_size >= MAX_NODE_SIZE:
                raise errors.NoSpaceError(f"{path}: too large")
        for name in reversed(missing):
            node = Node(permissions)
            parent.children[name] = node
            self._count(node.owner(), 1)
            parent = node
        return parent

    def _count(self, domid: int, change: int) -> None:
        if domid:
            self._owned[domid] = self._owned.get(domid, 0) + change

    def _fire(self, path: str, node: Node, *, exact: bool = False, before: Node | None = None) -> None:
        parent = self._find(_parent(path)) or node
        for watcher in self._watchers:
            allowed = (node, parent) if before is None else (before, node, parent)
            if not any(one.allows(watcher.domid, "r") for one in allowed):
                continue
            for (watched, token), relative in list(watcher.watches.items()):
                below = not exact and (watched == "/" or path.startswith(watched + "/"))
                if below or path == watched:
                    home = f"/local/domain/{watcher.domid}"
                    watcher.fired(path[len(home) + 1 :] if relative else path, token)


def absolute(domid: int, path: str) -> str:
    """Return the absolute form of a valid path.

    Raises:
        InvalidError: XenStore takes no such path.
    """
    full = path if path.startswith("/") else f"/local/domain/{domid}/{path}"
    if not _PATH_CHARS.issuperset(full) or "//" in full or (full.endswith("/") and full != "/"):
        raise errors.InvalidError("not a path")
    if len(full) > MAX_PATH + len(f"/local/domain/{domid}/"):
        raise errors.InvalidError("path too long")
    if len(full) >= wire.MAX_PAYLOAD:
        raise errors.TooBigError("longer than a request may be")
    return full


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _walk(path: str, node: Node) -> Iterator[tuple[str, Node]]:
    """Yield the node and all below, children first."""
    for name, child in node.children.items():
        yield from _walk(f"{path}/{name}", child)
    yield path, node
