# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the policy's command for events that an admin wants to be told of.

The command gets the event as JSON on standard input: no shell, no words from a guest on its command
line. It runs from threads of its own, so that starting it, and waiting for it, delays no tick: a command
that hangs is killed after its time, one that fails is told, and what comes faster than commands end is
dropped and counted.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

from xenwarden_host.audit import logfmt

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenwarden_host.policy.model import AlertPolicy

log = logging.getLogger("xenwarden.alerts")

MAX_WAITING = 100  # events; more than an admin reads
_KEPT = 30  # places that alerts do not take
_IDLE_S = 10.0  # a thread without work ends after this


class Alerts:
    """Take events from the audit log; `failed` is called for each that was not delivered, from any thread."""

    def __init__(self, policy: Callable[[], AlertPolicy], failed: Callable[[], None]) -> None:
        self._policy = policy
        self._failed = failed
        self._waiting: queue.Queue[tuple[AlertPolicy, dict[str, Any]]] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._dropping = False

    def notice(self, entry: dict[str, Any]) -> None:
        """Have the command run for the event where the policy wants that. Returns at once, never raises."""
        policy = self._policy()
        if not policy.command or entry["event"] not in policy.events:
            return
        # A guest can cause alerts at will: they leave room for verdicts.
        room = MAX_WAITING - (_KEPT if entry["event"] == "alert" else 0)
        if self._waiting.qsize() >= room:  # only this thread fills it
            self._failed()
            if not self._dropping:
                self._dropping = True
                log.error("event=alerts-dropped waiting=%d", MAX_WAITING)
            return
        self._dropping = False
        self._waiting.put_nowait((policy, entry))
        with self._lock:
            if len(self._threads) < policy.max_running:
                thread = threading.Thread(target=self._work, name="alerts", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no thread to be had; another may take it
                    log.exception("event=alerts-no-thread")
                    self._failed()
                else:
                    self._threads.add(thread)

    def finish(self, within_s: float) -> None:
        """Wait until what waits is delivered, at most so long."""
        until_s = time.monotonic() + within_s
        while self._waiting.unfinished_tasks and time.monotonic() < until_s:
            time.sleep(0.02)

    def _work(self) -> None:
        while True:
            try:
                policy, entry = self._waiting.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._waiting.empty():
                        self._threads.discard(threading.current_thread())
                        return
                continue
            try:
                self._run(policy, entry)
            except Exception as error:
                self._tell(policy, entry, str(error))
            self._waiting.task_done()

    def _run(self, policy: AlertPolicy, entry: dict[str, Any]) -> None:
        process = subprocess.Popen(
            policy.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        try:
            process.communicate(json.dumps(entry).encode() + b"\n", timeout=policy.timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it started; it is not reaped yet
            process.wait()
            self._tell(policy, entry, f"killed after {policy.timeout_s:g} s")
            return
        if process.returncode:
            self._tell(policy, entry, f"exit status {process.returncode}")

    def _tell(self, policy: AlertPolicy, entry: dict[str, Any], error: str) -> None:
        self._failed()
        fields = {"event": "alert-command-failed", "command": policy.command[0], "of": entry["event"]}
        log.error("%s", logfmt({**fields, "id": entry["id"] or "", "error": error}))
