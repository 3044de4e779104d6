# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's end of the line to its agent in dom0."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import threading
import time
from typing import TYPE_CHECKING, Any

from xenlab.errors import LabError
from xenlab.qmp import connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Link:
    """Requests to dom0's agent and, through it, to the guests'. May be used by several threads."""

    def __init__(self, path: Path) -> None:
        self._socket = connect(path, 10)
        self._numbers = itertools.count(int(time.time() * 1000) % 1_000_000_000)
        self._answers: dict[int, dict[str, Any]] = {}
        self._waiting: set[int] = set()
        self._changed = threading.Condition()
        self._closed = False
        self.events: list[dict[str, Any]] = []
        self.on_event: Callable[[dict[str, Any]], None] | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, op: str, wait_s: float = 60, **fields: Any) -> dict[str, Any]:
        """Ask and return the answer. LabError where none comes in time or it tells of an error."""
        return self.wait(self.send(op, **fields), wait_s, f"{fields.get('guest') or 'dom0'}: {op}")

    def send(self, op: str, **fields: Any) -> int:
        """Ask and return the request's number for `wait`."""
        number = next(self._numbers)
        with self._changed:
            self._waiting.add(number)
        line = json.dumps({"id": number, "op": op, **fields}).encode() + b"\n"
        try:
            self._socket.sendall(line)
        except OSError as e:
            raise LabError("The line to dom0 is gone.") from e
        return number

    def wait(self, number: int, timeout_s: float, what: str) -> dict[str, Any]:
        """Return the answer to request `number`."""
        with self._changed:
            self._changed.wait_for(lambda: number in self._answers or self._closed, timeout_s)
            self._waiting.discard(number)
            answer = self._answers.pop(number, None)
        if answer is None:
            state = "the machine is gone" if self._closed else f"no answer in {timeout_s:.0f} s"
            raise LabError(f"{what}: {state}")
        if "error" in answer:
            raise LabError(f"{what}: {answer['error']}")
        return answer

    def wait_event(self, name: str, timeout_s: float, **fields: str) -> bool:
        """Tell whether an event of this name and these fields has come, now or within the time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: any(e["event"] == name and fields.items() <= e.items() for e in self.events),
                timeout_s,
            )

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file in dom0."""
        self.ask("put", path=path, data=base64.b64encode(data).decode(), mode=mode)

    def run(self, command: str, timeout_s: float = 60, **fields: Any) -> dict[str, Any]:
        """Run a shell command (in `guest`, else in dom0) and return status, output, start_s, end_s."""
        return self.ask("run", timeout_s + 20, command=command, timeout_s=timeout_s, **fields)

    def check(self, command: str, timeout_s: float = 60, **fields: Any) -> str:
        """Run a shell command that must end with status 0 and return its output."""
        result = self.run(command, timeout_s, **fields)
        if result["status"] != 0:
            where = fields.get("guest") or "dom0"
            raise LabError(
                f"`{command}` in {where} ended with status {result['status']}.",
                output=result["output"][-3000:],
            )
        return str(result["output"])

    def close(self) -> None:
        """Close the line."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(2)
        self._socket.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._socket.makefile("rb") as file:
            for line in file:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # the rest of a line that an earlier connection did not read to its end
                self._take(message)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        with self._changed:
            if "event" in message:
                self.events.append(message)
            elif message.get("id") in self._waiting:
                self._answers[message["id"]] = message
            self._changed.notify_all()
        if "event" in message and self.on_event:
            self.on_event(message)
