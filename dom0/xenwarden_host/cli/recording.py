# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden record`: write what xenwardend sends, whole ticks only, into a file of root's own."""

from __future__ import annotations

import contextlib
import os

from xenwarden_host.control.client import RefusedError, UnreachableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from xenwarden_host.control.client import ControlClient


def record(client: ControlClient, path: str, *, anonymise: bool) -> dict[str, Any]:
    """Record until interrupted, or until the file is as large as policy allows; return what `--json` says.

    Raises:
        RefusedError: the file cannot be made or written, or xenwardend refused or went away.
    """
    change = _anonymiser() if anonymise else str
    answer = client.ask("record")
    file = _File(path)
    ticks, ended = 0, "interrupted"
    try:
        file.append(change(answer["header"]) + "\n")
        for lines in client.follow("lines"):
            text = "".join(change(line) + "\n" for line in lines)
            if file.size + len(text) > answer["max_bytes"]:
                ended = "full"
                break
            file.append(text)
            ticks += 1
    except KeyboardInterrupt:
        pass
    except UnreachableError as error:
        raise RefusedError(f"the recording ended: {error.message}", f"{path} is whole up to there") from None
    finally:
        file.close()
    return {"file": path, "bytes": file.size, "ticks": ticks, "ended": ended}


class _File:
    """A new file that nobody else reads.

    Raises:
        RefusedError: it is there already, or cannot be made.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.size = 0  # of whole ticks
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            hint = "name a file that is not there yet" if isinstance(error, FileExistsError) else None
            raise RefusedError(f"cannot make {path}: {error.strerror}", hint) from None

    def append(self, text: str) -> None:
        """Write all of `text`.

        Raises:
            RefusedError: the disk is full, or the like.
        """
        data = text.encode("ascii")
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError as error:
            raise RefusedError(
                f"cannot write {self._path}: {error.strerror}", "it is whole up to the tick before"
            ) from None
        self.size += written

    def close(self) -> None:
        """Close it, without the half of a tick that an interruption or a full disk may have left."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self.size)
        os.close(self._fd)


def _anonymiser() -> Callable[[str], str]:
    from xenwarden_host.replay.anonymise import Anonymiser  # noqa: PLC0415  few need it

    return Anonymiser().line
