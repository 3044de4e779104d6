# SPDX-License-Identifier: LGPL-2.1-or-later
"""The nodes of XenStore that override the policy: read when a watch says that they changed.

They are dom0's own, so that their directories may be listed; still a script may write too many of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenwarden_channel.errors import NotFoundError
from xenwarden_channel.paths import POLICY_DIR, VM_DIR

if TYPE_CHECKING:
    from xenwarden_host.protocols import Store

MAX_VMS = 4096
MAX_NODES = 1000  # below `policy`, and below each VM
_ALL = ""


class PolicyNodes:
    """What the nodes say, in sections that are read apart: that for all VMs, and that of each VM."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sections: dict[str, dict[str, bytes]] = {}
        self._changed = {_ALL}
        self.left_out: dict[str, str] = {}  # what is not read, and why, by path

    def note(self, path: str) -> None:
        """Note that a watch fired for `path`."""
        if path == POLICY_DIR or path.startswith(f"{POLICY_DIR}/"):
            self._changed.add(POLICY_DIR)
        elif path.startswith(f"{VM_DIR}/"):
            self._changed.add("/".join((VM_DIR, path.removeprefix(f"{VM_DIR}/").partition("/")[0])))
        else:
            self._changed.add(_ALL)

    def read(self) -> dict[str, bytes] | None:
        """Return all nodes by path, None where nothing was noted since the last time.

        Of a section with too many nodes those stay that were read before.

        Raises:
            StoreError: it will be tried again.
        """
        if not self._changed:
            return None
        whole = _ALL in self._changed
        vms = [f"{VM_DIR}/{name}" for name in self._children(VM_DIR)] if whole else []
        wanted = [POLICY_DIR, *vms[:MAX_VMS]] if whole else sorted(self._changed)
        left_out = {} if whole else dict(self.left_out)
        if len(vms) > MAX_VMS:
            left_out[VM_DIR] = f"holds {len(vms)} VMs: {MAX_VMS} of them are read"
        sections = {} if whole else dict(self._sections)
        for section in wanted:
            nodes = self._below(section)
            left_out.pop(section, None)
            if nodes is None:
                left_out[section] = f"holds more than {MAX_NODES} nodes: what it held before counts"
                nodes = self._sections.get(section)
            sections[section] = nodes or {}
        self._sections = {section: nodes for section, nodes in sections.items() if nodes}
        self.left_out = left_out
        self._changed.clear()
        return {path: value for nodes in self._sections.values() for path, value in nodes.items()}

    def _below(self, top: str) -> dict[str, bytes] | None:
        """Return the values of a node and of all below it; None where there are too many."""
        found, waiting = [], [top]
        while waiting:
            path = waiting.pop()
            found.append(path)
            waiting += [f"{path}/{name}" for name in self._children(path)]
            if len(found) + len(waiting) > MAX_NODES:
                return None
        values = self._store.read_many(found)
        return {path: value for path, value in zip(found, values, strict=True) if value}

    def _children(self, path: str) -> list[str]:
        try:
            return self._store.directory(path)
        except NotFoundError:
            return []
