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
        self._background: dict[str, tuple[subprocess.Popen[bytes], str, float]] = {}
        self._lock = threading.Lock()

    def run(self, command: str, timeout_s: float, env: dict[str, str]) -> dict[str, object]:
        """Run `command` to its end and return status, output and dom0-style monotonic times.

        The status is that of the shell; None where the command was stopped at `timeout_s`.
        """
        start = time.monotonic()
        process = _popen(command, env, subprocess.PIPE)
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
        """Start `command` in the background under `name`; its output goes to a file."""
        path = f"/run/xenlab/job-{name}.log"
        with self._lock:
            old = self._background.get(name)
            if old and old[0].poll() is None:
                return {"error": f"a background command named {name} is still running"}
            with open(path, "wb") as log:
                process = _popen(command, env, log)
            self._background[name] = (process, path, time.monotonic())
        return {"pid": process.pid, "start_s": time.monotonic()}

    def stop(self, name: str) -> dict[str, object]:
        """Stop the background command `name`, its children with it, and return what it printed."""
        with self._lock:
            job = self._background.pop(name, None)
        if job is None:
            return {"error": f"no background command is named {name}"}
        process, path, start = job
        ended = process.poll()
        if ended is None:
            _stop_group(process)
        with open(path, "rb") as log:
            output = log.read(self._output_limit)
        return {
            "status": ended,  # None: it was still running, which is what a background command should do
            "output": output.decode(errors="replace"),
            "start_s": start,
            "end_s": time.monotonic(),
        }

    def stop_all(self) -> dict[str, object]:
        """Stop every background command."""
        for name in list(self._background):
            self.stop(name)
        return {}

    def _read(self, process: subprocess.Popen[bytes], head: bytearray) -> None:
        assert process.stdout is not None  # noqa: S101  -- opened with PIPE above
        while chunk := os.read(process.stdout.fileno(), 65536):
            head += chunk[: max(0, self._output_limit - len(head))]


def _popen(command: str, env: dict[str, str], output: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/bash", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=output,  # type: ignore[call-overload]
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
