# SPDX-License-Identifier: LGPL-2.1-or-later
"""The policy in force: that of the file, and over it what nodes of XenStore say. Changes are told."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from xenwarden_channel.paths import VM_DIR
from xenwarden_host import audit
from xenwarden_host.policy.load import build, read
from xenwarden_host.policy.overrides import Overrides

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from xenwarden_host.audit import Audit

_TELL_EACH = 20  # more changes at once, as when the daemon starts, are told in one line


class Policies:
    """Make `policy` from both; an error of one leaves what counted before.

    Raises:
        ConfigError: the file is no policy.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = read(path)
        self._overrides = Overrides()
        self.policy = build(self._file)

    def load(self, path: Path | None) -> None:
        """Read the file again.

        Raises:
            ConfigError: it is no policy; nothing changed.
        """
        self._file = read(path)
        self.policy = build(self._overrides.over(self._file))

    def take(
        self,
        nodes: Mapping[str, bytes],
        left_out: Mapping[str, str],
        names: Mapping[str, str],
        audit_log: Audit,
    ) -> None:
        """Take the nodes as they are now; `left_out` could not be read, `names` are of VMs by UUID."""
        before, refused_before = self._overrides.held, self.policy.refused
        self._overrides.take(nodes)
        draft = self._overrides.over(self._file)
        draft.refused.update(left_out)
        self.policy = build(draft)
        now = self._overrides.held
        changed = sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))
        if len(changed) > _TELL_EACH:
            text = f"{len(changed)} nodes of XenStore changed, {len(now)} override the policy now"
            audit_log.record("policy-override", who=audit.DAEMON, text=text, nodes=len(now))
            changed = []
        for path in changed:
            value = now[path].decode(errors="replace").strip() if path in now else None
            text = f"{path} is gone: it overrides nothing" if value is None else f"{path} is {value} now"
            uuid = _uuid(path)
            audit_log.record(
                "policy-override",
                who=audit.DAEMON,
                text=text,
                uuid=uuid,
                name=names.get(uuid, ""),
                node=path,
                value=value,
            )
        for path, why in draft.refused.items():
            if refused_before.get(path) == why:
                continue
            stays = "its last good value" if path in now else "what counted before it"
            uuid = _uuid(path)
            audit_log.record(
                "policy-refused",
                who=audit.DAEMON,
                text=f"{path} is refused, {stays} stays: {why}",
                uuid=uuid,
                name=names.get(uuid, ""),
                level=logging.ERROR,
                node=path,
            )


def _uuid(path: str) -> str:
    """Return the UUID of the VM that a node is about, empty for one that is about all."""
    return path.removeprefix(f"{VM_DIR}/").partition("/")[0].lower() if path.startswith(f"{VM_DIR}/") else ""
