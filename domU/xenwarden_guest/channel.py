# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent's end of XenStore: a store in trouble is a state, never a reason to stop measuring."""

from __future__ import annotations

from xenwarden_channel import paths
from xenwarden_channel.errors import DeadlineError, DisconnectedError, StoreError
from xenwarden_channel.guest import GuestStore
from xenwarden_channel.messages import MessageError, UnknownVersionError, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_channel.messages import Message

_BACK_OFF_FIRST_S = 1.0
_BACK_OFF_MOST_S = 60.0
_READ = frozenset((*paths.DOWN, paths.DOWN_LOOK))
_TOKEN = "down"  # noqa: S105  the watch's, not a secret


class Channel:
    """Reads what dom0 writes, writes what the agent has to say; backs off while XenStore fails."""

    __slots__ = (
        "_back_off_s",
        "_connected",
        "_home",
        "_path",
        "_retry_s",
        "_store",
        "_write_s",
        "foreign",
        "trouble",
    )

    def __init__(self, path: str, home: str = "") -> None:
        self._path = path
        self._home = home  # prefix of every path: empty where the store knows whose connection it is
        self._store: GuestStore | None = None
        self._back_off_s = _BACK_OFF_FIRST_S
        self._retry_s = 0.0  # no new connection before this time
        self._write_s = 0.0  # no write before this time
        self._connected = False
        self.trouble = ""  # why XenStore does not work, empty while it does
        self.foreign = ""  # how dom0's messages differ in version from ours, empty where they do not

    def fileno(self) -> int:
        """Return the file to poll, -1 while there is none."""
        return self._store.fileno() if self._store is not None and self._connected else -1

    @property
    def pending(self) -> bool:
        """Say whether there are events that came along with an answer: `poll` does not see these."""
        return self._store is not None and self._connected and self._store.pending

    def ready(self, now_s: float) -> bool:
        """Connect and watch where that is due; say whether the store can be used."""
        if self._connected:
            return True
        if now_s < self._retry_s:
            return False
        try:
            if self._store is None:
                store = GuestStore(self._path)
                store.watch(self._home + paths.DOWN_DIR, _TOKEN)
                self._store = store
            else:
                self._store.reconnect()
        except StoreError as error:
            self._failed(error, now_s)
            return False
        self._connected = True
        self.trouble = ""
        return True

    def _failed(self, error: StoreError, now_s: float) -> None:
        """Note a refusal, or a broken connection that must be made anew; either way not at once."""
        self.trouble = f"{error or type(error).__name__} {error.code}".rstrip()
        if self._connected and not isinstance(error, (DisconnectedError, DeadlineError)):
            self._write_s = now_s + self._back_off_s
        else:
            self._connected = False
            self._retry_s = now_s + self._back_off_s
        self._back_off_s = min(self._back_off_s * 2, _BACK_OFF_MOST_S)

    def events(self, now_s: float) -> set[str]:
        """Return which of dom0's nodes may have changed; an event for the directory means all of them."""
        if self._store is None or not self._connected:
            return set()
        try:
            found = {path.removeprefix(self._home) for path, _token in self._store.events()}
        except StoreError as error:
            self._failed(error, now_s)
            return set()
        return found if found <= _READ else set(_READ)

    def read(self, path: str, kind: str, now_s: float) -> Message | None:
        """Return dom0's message, None where there is none that can be read."""
        if self._store is None or not self._connected:
            return None
        try:
            message = parse(self._store.read(self._home + path), kind)
        except UnknownVersionError as error:
            self.foreign = str(error)
        except MessageError:
            pass
        except (DisconnectedError, DeadlineError) as error:
            self._failed(error, now_s)
        except StoreError:
            pass  # not written yet, or not for us to read: nothing to mend
        else:
            self.foreign = ""
            return message
        return None

    def write(self, path: str, value: bytes, now_s: float) -> bool:
        """Write a node; say whether that worked."""
        if self._store is None or not self._connected or now_s < self._write_s:
            return False
        try:
            self._store.write(self._home + path, value)
        except StoreError as error:
            self._failed(error, now_s)
            return False
        self._back_off_s = _BACK_OFF_FIRST_S
        self.trouble = ""
        return True

    def remove(self, path: str, now_s: float) -> None:
        """Remove a node of ours."""
        if self._store is None or not self._connected:
            return
        try:
            self._store.remove(self._home + path)
        except StoreError as error:
            self._failed(error, now_s)

    def close(self) -> None:
        """Give the connection back."""
        if self._store is not None:
            self._store.close()
            self._store = None
