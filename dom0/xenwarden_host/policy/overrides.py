# SPDX-License-Identifier: LGPL-2.1-or-later
"""What nodes of XenStore say in place of the policy's file.

Each node holds one value, written as in the file:

    /tool/xenwarden/policy/watch/max_s = 30
    /tool/xenwarden/vm/UUID/exempt = true

A node of the first kind counts as if the file's line of that key read so, one of the second kind as if the
VM's entry in `vms` did. So the order is: built-in, file, node for all, entry of the VM, node of the VM; what
is said of one VM counts before what is said of all, wherever it is said.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from xenwarden_channel.paths import POLICY_DIR, VM_DIR
from xenwarden_host import yamlfile
from xenwarden_host.errors import ConfigError
from xenwarden_host.policy import load, model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.yamlfile import Place

MAX_BYTES = 2000  # of a value
# Who may steer the daemon and what it starts is said in a file of root's; `audit` counts from a start on.
_IN_FILE_ONLY = ("roles", "alerts", "audit")
_OWN_PLACE = re.compile(r"\bvms\.0(?:\.|: )")  # what the path says in a better way
_KEPT = 8192  # values that need not be parsed again


class Overrides:
    """The nodes as they were last read. Pure: who reads them and when is the daemon's matter."""

    def __init__(self) -> None:
        self._nodes: dict[str, bytes] = {}
        self.held: dict[str, bytes] = {}  # by node, the value that counts: its last good one

    def take(self, nodes: Mapping[str, bytes]) -> None:
        """Take all nodes, by path, as they are now; an empty value, as of a directory, says nothing."""
        self._nodes = {path: raw for path, raw in nodes.items() if raw}

    def over(self, draft: load.Draft) -> load.Draft:
        """Return the draft with what the nodes say over it.

        A value that is refused is told in `refused`, and the node's last good one stays.
        """
        held: dict[str, bytes] = {}
        refused: dict[str, str] = {}
        draft = replace(draft, nodes={})
        for path, raw in sorted(self._nodes.items()):  # those for all before those of one VM
            for tried in dict.fromkeys((raw, self.held.get(path, raw))):
                try:
                    draft = _put(draft, path, tried)
                except ConfigError as error:
                    refused.setdefault(path, _OWN_PLACE.sub("", error.message.replace(f"{path}:1: ", "")))
                else:
                    held[path] = tried
                    break
        self.held = held
        return replace(draft, refused=refused)


def _put(draft: load.Draft, path: str, raw: bytes) -> load.Draft:
    """Return the draft with the node over it; its `nodes` are changed in place."""
    own = _read(path, raw)
    if not path.startswith(VM_DIR):
        return load.put(draft, own, path, lambda _place: path)
    load.check(own, path, set(draft.data["profiles"]))
    (entry,) = own.data["vms"]
    uuid, said = entry["uuid"], {key: value for key, value in entry.items() if key != "uuid"}
    before = draft.nodes.get(uuid, model.VmNodes({}, {}))
    values = {**before.values}
    for key, value in said.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else _record(key, value)
    sources = {load.dotted(place): path for place in load.leaves(said)}
    draft.nodes[uuid] = model.VmNodes(values, {**before.sources, **sources})
    return draft


def _record(key: str, value: Any) -> Any:
    """Return the value as `VmPolicy` has it."""
    if key == "fail_safe":
        return model.FailSafe(value)
    return tuple(value) if isinstance(value, list) else value


@lru_cache(_KEPT)
def _read(path: str, raw: bytes) -> yamlfile.Loaded:
    """Return the node as a file that says this alone, all of it on line 1.

    Raises:
        ConfigError: it is none.
    """
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}:1: expected at most {MAX_BYTES} bytes, found {len(raw)}")
    value = yamlfile.parse(raw, path, {}).data
    place = _place(path)
    if isinstance(value, dict):
        raise ConfigError(f"{path}:1: expected one value: each key has a node of its own")
    data: Any = value
    for key in reversed(place):
        data = {key: data}
    if path.startswith(VM_DIR):
        ((uuid, entry),) = data.items()
        data = {"vms": [{"uuid": uuid, **entry}]}
    own = yamlfile.Loaded(data, defaultdict(lambda: 1))
    yamlfile.validate(own, path, load.schema())
    return own


def _place(path: str) -> Place:
    """Return the keys that a path stands for; of a VM its UUID first."""
    of_vm = path.startswith(VM_DIR)
    keys = path.removeprefix(VM_DIR if of_vm else POLICY_DIR).split("/")[1:]
    if of_vm:
        keys[:1] = [key.lower() for key in keys[:1]]
        if "uuid" in keys or "name" in keys:
            raise ConfigError(f"{path}:1: expected a key of an entry in vms; the VM is named by the path")
    elif keys and keys[0] == "vms":
        raise ConfigError(f"{path}:1: what is said of one VM belongs below {VM_DIR}/UUID")
    elif keys and keys[0] in _IN_FILE_ONLY:
        raise ConfigError(f"{path}:1: {keys[0]} can be set in the file only")
    if keys[:2] == ["limits", "vif-pps"]:
        keys[1:3] = ["/".join(keys[1:3])]  # the one kind of key that has a slash in it
    if len(keys) <= of_vm:
        raise ConfigError(f"{path}:1: expected no value here: each key has a node of its own")
    return tuple(keys)
