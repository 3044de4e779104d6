# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is at the other end of the control socket, and what they may do."""

from __future__ import annotations

import errno
import functools
import grp
import pwd
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
_MAX_GROUPS = 256  # Python asks for at most 1,024 bytes


class Role(IntEnum):
    """What a user may do; each role includes those below it."""

    NONE = 0
    VIEWER = 1  # look
    OPERATOR = 2  # release
    ADMIN = 3  # kill switch, policy


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as the kernel tells it at the time of connecting."""

    pid: int
    uid: int
    gids: frozenset[int]

    @property
    def user(self) -> str:
        """The user's name, or the uid where it has none."""
        return _user_name(self.uid)


@functools.lru_cache(maxsize=256)
def _user_name(uid: int) -> str:
    """Return the user's name; looked up once, since a directory on the network may take its time."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def peer_of(connection: socket.socket) -> Peer:
    """Ask the kernel who connected: SO_PEERCRED, and SO_PEERGROUPS for the other groups.

    Raises:
        OSError: the peer is gone.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    pid, uid, gid = struct.unpack("iII", raw)
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        return Peer(pid, uid, frozenset((gid,)))  # in more groups than that: only the first counts
    return Peer(pid, uid, frozenset((gid, *struct.unpack(f"{len(groups) // 4}I", groups))))


class Roles:
    """The groups of each role, by the names that the policy gives. root is admin always.

    Names are looked up once: a group made later counts after the policy is read again.
    """

    def __init__(self, groups: Mapping[Role, Sequence[str]]) -> None:
        self._role_of_gid: dict[int, Role] = {}
        self.unknown: list[str] = []  # groups that do not exist here
        for role in sorted(groups):
            for name in groups[role]:
                try:
                    self._role_of_gid[grp.getgrnam(name).gr_gid] = role
                except KeyError:
                    self.unknown.append(name)

    @property
    def root_only(self) -> bool:
        """Whether no group has a role."""
        return not self._role_of_gid

    def role_of(self, peer: Peer) -> Role:
        """Return the highest role that one of the peer's groups has."""
        if peer.uid == 0:
            return Role.ADMIN
        return max((self._role_of_gid.get(gid, Role.NONE) for gid in peer.gids), default=Role.NONE)
