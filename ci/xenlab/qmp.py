# SPDX-License-Identifier: LGPL-2.1-or-later
"""QEMU's control protocol, as far as the lab needs it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from xenlab.errors import LabError

if TYPE_CHECKING:
    from pathlib import Path


def connect(path: Path, timeout_s: float) -> socket.socket:
    """Connect to the Unix socket at `path`, however long the path is, as soon as it is there."""
    end = time.monotonic() + timeout_s
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                # A socket's path has room for 107 bytes only; through /proc it is short.
                sock.connect(f"/proc/self/fd/{directory}/{path.name}")
            except OSError as e:
                sock.close()
                if time.monotonic() > end:
                    raise LabError(f"QEMU does not listen on {path}: {e.strerror}.") from e
                time.sleep(0.02)
            else:
                return sock
    finally:
        os.close(directory)


class Qmp:
    """A connection to one QEMU."""

    def __init__(self, path: Path, timeout_s: float = 10) -> None:
        self._socket = connect(path, timeout_s)
        self._file = self._socket.makefile("rw")
        self._file.readline()
        self.execute("qmp_capabilities")

    def execute(self, name: str, **arguments: Any) -> Any:
        """Run one command and return its result. LabError where QEMU refuses it or is gone."""
        try:
            self._file.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
            self._file.flush()
            while line := self._file.readline():
                reply = json.loads(line)
                if "return" in reply:
                    return reply["return"]
                if "error" in reply:
                    raise LabError(f"QEMU refused {name}: {reply['error']['desc']}")
        except OSError as e:
            raise LabError(f"QEMU is gone while asked for {name}.") from e
        raise LabError(f"QEMU is gone while asked for {name}.")

    def migrate(self, name: str, uri: str) -> None:
        """Save to or load from `uri` (`name` is `migrate` or `migrate-incoming`) and wait for the end."""
        self.execute(name, uri=uri)
        while True:
            state = self.execute("query-migrate").get("status")
            if state == "completed":
                return
            if state in ("failed", "cancelled"):
                raise LabError("QEMU could not save or load the machine's state.")
            time.sleep(0.05)

    def close(self) -> None:
        """Close the connection, whatever became of the other end."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._socket.close()
