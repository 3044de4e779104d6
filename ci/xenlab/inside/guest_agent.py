# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's agent in a guest. Speaks on the guest's console, so that it works whatever limits hold.

A request is known by its id: dom0 repeats one that it had no answer to, and here it is run once.
Standard library only; says nothing of its own accord but hello.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import tty

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lab_jobs import Jobs
from lab_lines import decode, encode

KEPT_ANSWERS = 64
OUTPUT_LIMIT = 65_536  # the console carries some hundred kilobytes per second at best


class GuestAgent:
    """Answers requests that come as lines on the console."""

    def __init__(self) -> None:
        self._jobs = Jobs(OUTPUT_LIMIT)
        self._answers: dict[int, dict[str, object] | None] = {}
        self._write_lock = threading.Lock()

    def serve(self) -> None:
        """Read lines for ever."""
        tty.setraw(0)
        self._send({"event": "hello"})
        pending = b""
        while True:
            chunk = os.read(0, 4096)
            if not chunk:
                time.sleep(0.1)
                continue
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                message = decode(line)
                if message:
                    self._take(message)

    def _take(self, message: dict[str, object]) -> None:
        request = message["id"]
        if not isinstance(request, int):
            return
        if request in self._answers:
            answer = self._answers[request]
            if answer:
                self._send(answer)
            return
        self._answers[request] = None
        while len(self._answers) > KEPT_ANSWERS:
            del self._answers[next(iter(self._answers))]
        threading.Thread(target=self._work, args=(request, message), daemon=True).start()

    def _work(self, request: int, message: dict[str, object]) -> None:
        try:
            result = perform(self._jobs, message)
        except Exception as e:
            result = {"error": f"{type(e).__name__}: {e}"}
        self._answers[request] = {"id": request, **result}
        self._send({"id": request, **result})

    def _send(self, message: dict[str, object]) -> None:
        line = encode(message)
        with self._write_lock:
            while line:
                line = line[os.write(1, line) :]


def perform(jobs: Jobs, message: dict[str, object]) -> dict[str, object]:
    """Do what `message` asks; the fields are those that dom0's agent passes through."""
    op = message["op"]
    env = message.get("env")
    environment = {str(k): str(v) for k, v in env.items()} if isinstance(env, dict) else {}
    if op == "run":
        return jobs.run(str(message["command"]), float(str(message["timeout_s"])), environment)
    if op == "spawn":
        return jobs.spawn(str(message["name"]), str(message["command"]), environment)
    if op == "stop":
        return jobs.stop(str(message["name"]))
    if op == "stop_all":
        return jobs.stop_all()
    if op == "ping":
        return {}
    return {"error": f"no operation is named {op}"}


if __name__ == "__main__":
    GuestAgent().serve()
