# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run shell commands for a lab agent, in dom0 and in guests alike. Standard library only."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

OUTPUT_LIMIT = 262_144  # bytes kept of a command's output: the head says what went wrong, the rest is bulk


class Jobs:
    """Commands under way, by name. Each is the leader of a process group of its own."""

    def __init__(self, output_limit: int = OUTPUT_LIMIT) -> None:
        self._output_limit = output_limit
        self._background: dict[str, Background] = {}
        self._lock = threading.Lock()

    def run(self, command: str, timeout_s: float, env: dict[str, str]) -> dict[str, object]:
        """Run `command` to its end and return status, output and dom0-style monotonic times.

        The status is that of the shell; None where the command was stopped at `timeout_s`.
        """
        start = time.monotonic()
        process = _popen(command, env)
        head = bytearray()
        reader = threading.Thread(target=self._read, args=(process, head), daemon=True)
        reader.start()
        status: int | None
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            _stop_group(process)
            status = None
        # A command may leave children that keep its output open: they are not waited for.
        reader.join(0.5)
        return {
            "status": status,
            "output": bytes(head).decode(errors="replace"),
            "start_s": start,
            "end_s": time.monotonic(),
        }

    def spawn(self, name: str, command: str, env: dict[str, str]) -> dict[str, object]:
        """Start `command` in the background under `name`; its output is kept with times."""
        with self._lock:
            old = self._background.get(name)
            if old and old.process.poll() is None:
                return {"error": f"a background command named {name} is still running"}
            job = self._background[name] = Background(command, env, self._output_limit)
        return {"pid": job.process.pid, "start_s": job.start_s}

    def stop(self, name: str) -> dict[str, object]:
        """Stop the background command `name`, its children with it, and return what it printed.

        `status` is None where it was still running, which is what a background command should do.
        `lines` are pairs of seconds since its start and text.
        """
        with self._lock:
            job = self._background.pop(name, None)
        if job is None:
            return {"error": f"no background command is named {name}"}
        ended = job.process.poll()
        if ended is None:
            _stop_group(job.process)
        job.reader.join(0.5)
        return {"status": ended, "lines": job.lines, "start_s": job.start_s, "end_s": time.monotonic()}

    def stop_all(self) -> dict[str, object]:
        """Stop every background command."""
        for name in list(self._background):
            self.stop(name)
        return {}

    def _read(self, process: subprocess.Popen[bytes], head: bytearray) -> None:
        assert process.stdout is not None  # noqa: S101  -- opened with PIPE above
        while chunk := os.read(process.stdout.fileno(), 65536):
            head += chunk[: max(0, self._output_limit - len(head))]


class Background:
    """One command in the background."""

    def __init__(self, command: str, env: dict[str, str], output_limit: int) -> None:
        self.start_s = time.monotonic()
        self.process = _popen(command, env)
        self.lines: list[tuple[float, str]] = []
        self._room = output_limit
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None  # noqa: S101  -- opened with PIPE
        for line in self.process.stdout:
            if self._room > 0:
                self._room -= len(line) + 16
                text = line.decode(errors="replace").rstrip("\n")
                self.lines.append((round(time.monotonic() - self.start_s, 3), text))


def _popen(command: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/bash", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **env},
        start_new_session=True,
        cwd="/root",
    )


def _stop_group(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            continue
        # The leader is gone; a child that ignores SIGTERM is not to outlive the step.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        return
