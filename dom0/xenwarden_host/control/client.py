# SPDX-License-Identifier: LGPL-2.1-or-later
"""The client's side of the control socket. Light to import: commands should start fast."""

from __future__ import annotations

import _socket  # `socket` would bring enum and selectors: see lean
import _struct

from xenwarden_host.control.lean import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SOCKET_PATH = "/run/xenwarden/control.sock"
_TIMEOUT_S = 30.0


class RefusedError(Exception):
    """The daemon said no: its sentence, and its hint where there is one."""

    def __init__(self, message: str, hint: str | None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UnreachableError(RefusedError):
    """There is no daemon to ask, or it does not answer."""


class ControlClient:
    """One connection to xenwardend at `path`.

    Raises:
        UnreachableError: nothing listens there, or this user may not connect.
    """

    def __init__(self, path: str = SOCKET_PATH) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._read = bytearray()
        # A connect that may block waits in line where others crowd the socket; one with Python's timeout
        # does not block, so it would be turned away. The kernel's own timeout bounds the wait.
        self._socket.setsockopt(
            _socket.SOL_SOCKET, _socket.SO_SNDTIMEO, _struct.pack("ll", int(_TIMEOUT_S), 0)
        )
        try:
            self._socket.connect(path)
        except PermissionError:
            raise UnreachableError(
                f"this user may not speak to xenwardend ({path})",
                "be root, or be in a group that the policy gives a role: see roles in xenwarden.yaml(5)",
            ) from None
        except OSError as error:
            missing = isinstance(error, (FileNotFoundError, ConnectionRefusedError))
            raise UnreachableError(
                "xenwardend is not running" if missing else f"cannot reach xenwardend at {path}: {error}",
                "start it with: systemctl start xenwardend",
            ) from None
        self._socket.settimeout(_TIMEOUT_S)

    def ask(self, do: str, **arguments: Any) -> Any:
        """Send one request and return its result.

        Raises:
            RefusedError: the daemon refused it.
            UnreachableError: the daemon went away or did not answer within 30 s.
        """
        # A daemon that refuses at once may have closed already: its answer is there to read.
        try:  # noqa: SIM105  contextlib is not worth its import here
            self._socket.sendall(dumps({"do": do, **arguments}).encode() + b"\n")
        except OSError:
            pass
        answer = self._line()
        if not answer.get("ok"):
            raise RefusedError(answer.get("error", "xenwardend gave no reason"), answer.get("hint"))
        return answer.get("result")

    def follow(self, stream: str = "event") -> Iterator[Any]:
        """Yield what comes after a request that follows a stream, for as long as the daemon lives.

        Raises:
            UnreachableError: the daemon went away, or this reader was too slow for it.
        """
        self._socket.settimeout(None)
        while True:
            line = self._line()
            if not line.get("ok", True):
                raise UnreachableError(line.get("error", "the stream ended"), line.get("hint"))
            yield line[stream]

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _line(self) -> dict[str, Any]:
        while (end := self._read.find(b"\n")) < 0:
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise UnreachableError(
                    f"xenwardend did not answer within {_TIMEOUT_S:g} s", "see: journalctl -u xenwardend"
                ) from None
            except OSError as error:
                raise UnreachableError(f"the connection to xenwardend broke: {error}", None) from None
            if not data:
                raise UnreachableError("xenwardend closed the connection", "see: journalctl -u xenwardend")
            self._read += data
        line = self._read[:end].decode()
        del self._read[: end + 1]
        answer = loads(line)
        if not isinstance(answer, dict):
            raise UnreachableError("xenwardend gave an answer that is none", None)
        return answer
