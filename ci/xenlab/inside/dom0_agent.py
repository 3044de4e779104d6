# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's agent in dom0. Speaks JSON lines with the lab on a virtio-serial port of QEMU.

A request is `{"id": N, "op": ..., ...}`; with a `guest` field it goes to that guest's agent over the
guest's console. The answer repeats the id. Standard library only.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import pty
import socket
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from guest_agent import perform
from lab_jobs import Jobs
from lab_lines import decode, encode

RESEND_S = 5.0  # a guest that answers at all answers a ping in less, even with a cap of 10 %
LOCAL_SOCKET = "/run/xenlab/agent.sock"
CONSOLE_KEPT = 65_536  # bytes of a guest's console kept for a failure's message
Send = Callable[[dict[str, object]], None]


class GuestConsole:
    """One guest's console: sends requests, repeats them, keeps the tail of what else was said."""

    def __init__(self, name: str, send: Send) -> None:
        self.name = name
        self.tail = bytearray()
        self._send = send
        self._fd: int | None = None
        self._open: dict[int, tuple[bytes, float]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._serve, daemon=True).start()

    def request(self, message: dict[str, object]) -> None:
        """Send the request; its answer goes to the lab when it comes."""
        line = encode(message)
        with self._lock:
            self._open[int(str(message["id"]))] = (line, time.monotonic())
        self._write(line)

    def repeat(self) -> None:
        """Send again what had no answer for long."""
        now = time.monotonic()
        for request, (line, sent) in list(self._open.items()):
            if now - sent >= RESEND_S:
                self._open[request] = (line, now)
                self._write(line)

    def _write(self, line: bytes) -> None:
        fd = self._fd
        if fd is not None:
            with contextlib.suppress(OSError):  # the guest is going: its next start has a new console
                os.write(fd, line)

    def _serve(self) -> None:
        while True:
            tty_path = _console_of(self.name)
            if tty_path is None:
                time.sleep(0.3)
                continue
            with contextlib.suppress(OSError):
                self._fd = os.open(tty_path, os.O_RDWR | os.O_NOCTTY)
                tty.setraw(self._fd)
                self._read(self._fd)
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
            time.sleep(0.3)

    def _read(self, fd: int) -> None:
        pending = b""
        while chunk := os.read(fd, 4096):
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                message = decode(line)
                if message is None:
                    self.tail = (self.tail + line + b"\n")[-CONSOLE_KEPT:]
                elif message.get("event") == "hello":
                    self._drop_open()
                    self._send({"event": "guest-hello", "guest": self.name, "mono_s": time.monotonic()})
                elif message.get("id") in self._open:
                    del self._open[int(str(message["id"]))]
                    self._send(message)

    def _drop_open(self) -> None:
        # What was asked of the guest before it started anew must not be run by its next life.
        for request in list(self._open):
            del self._open[request]
            self._send({"id": request, "error": f"{self.name} started anew before it answered"})


class Dom0Agent:
    """Answers the lab's requests."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._jobs = Jobs()
        self._guests: dict[str, GuestConsole] = {}
        self._shells: dict[int, int] = {}
        self._local: dict[object, socket.socket] = {}
        self._write_lock = threading.Lock()

    def serve(self) -> None:
        """Read requests for ever; a lab that goes and another that comes are both normal."""
        threading.Thread(target=self._repeat, daemon=True).start()
        threading.Thread(target=self._serve_local, daemon=True).start()
        self._send({"event": "hello"})
        pending = b""
        while True:
            chunk = os.read(self._fd, 65536)
            if not chunk:  # nobody is connected at the other end
                pending = b""
                time.sleep(0.02)
                continue
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    threading.Thread(target=self._work, args=(json.loads(line),), daemon=True).start()

    def _serve_local(self) -> None:
        """Take requests of `in-guest`, run by a person in dom0: one for each connection."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(LOCAL_SOCKET)
        server = socket.socket(socket.AF_UNIX)
        server.bind(LOCAL_SOCKET)
        server.listen()
        numbers = itertools.count(-1, -1)  # the lab's own are positive
        while True:
            connection, _ = server.accept()
            with contextlib.suppress(OSError, ValueError):
                message = json.loads(connection.makefile("rb").readline())
                message["id"] = next(numbers)
                self._local[message["id"]] = connection
                threading.Thread(target=self._work, args=(message,), daemon=True).start()

    def _repeat(self) -> None:
        while True:
            time.sleep(1)
            for guest in list(self._guests.values()):
                guest.repeat()

    def _work(self, message: dict[str, object]) -> None:
        try:
            answer = self._perform(message)
        except Exception as e:
            answer = {"error": f"{type(e).__name__}: {e}"}
        if answer is not None:
            self._send({"id": message["id"], **answer})

    def _perform(self, message: dict[str, object]) -> dict[str, object] | None:
        op = message["op"]
        name = message.get("guest")
        if op == "attach":
            self._guests[str(name)] = GuestConsole(str(name), self._send)
            return {}
        if op == "console":
            guest = self._guests.get(str(name))
            return {"output": guest.tail.decode(errors="replace") if guest else ""}
        if name is not None:
            self._guests[str(name)].request(message)
            return None
        if op == "clock":
            return {"mono_s": time.monotonic()}
        if op == "put":
            return _put(message)
        if op == "stream":
            return self._stream(str(message["name"]), str(message["command"]))
        if op == "shell":
            return self._shell(int(str(message["id"])))
        if op == "keys":
            os.write(self._shells[int(str(message["shell"]))], base64.b64decode(str(message["data"])))
            return {}
        return perform(self._jobs, message)

    def _stream(self, name: str, command: str) -> dict[str, object]:
        """Run `command` for as long as it runs and send each line it prints."""
        process = subprocess.Popen(
            ["/bin/sh", "-c", command], stdout=subprocess.PIPE, text=True, errors="replace"
        )
        assert process.stdout is not None  # noqa: S101  -- opened with PIPE
        for line in process.stdout:
            self._send({"event": "line", "stream": name, "line": line.rstrip("\n")})
        return {"status": process.wait()}

    def _shell(self, shell: int) -> dict[str, object]:
        pid, fd = pty.fork()
        if pid == 0:
            os.chdir("/root")
            os.environ["TERM"] = "xterm"
            os.environ["PATH"] += ":/run/xenlab"
            os.execv("/bin/bash", ["bash"])
        self._shells[shell] = fd
        with contextlib.suppress(OSError):  # EIO is how a pty says that its shell ended
            while data := os.read(fd, 4096):
                self._send({"event": "shell", "shell": shell, "data": base64.b64encode(data).decode()})
        os.close(fd)
        del self._shells[shell]
        _, status = os.waitpid(pid, 0)
        return {"status": os.waitstatus_to_exitcode(status)}

    def _send(self, message: dict[str, object]) -> None:
        line = json.dumps(message).encode() + b"\n"
        local = self._local.pop(message.get("id"), None)
        if local:
            with local, contextlib.suppress(OSError):
                local.sendall(line)
            return
        with self._write_lock:
            while line:
                line = line[os.write(self._fd, line) :]


def _put(message: dict[str, object]) -> dict[str, object]:
    path = str(message["path"])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(base64.b64decode(str(message["data"])))
    os.chmod(path, int(str(message["mode"])))
    return {}


def _console_of(name: str) -> str | None:
    domid = subprocess.run(["xl", "domid", name], capture_output=True, text=True, check=False).stdout.strip()
    if not domid:
        return None
    path = f"/local/domain/{domid}/console/tty"
    found = subprocess.run(
        ["xenstore-read", path], capture_output=True, text=True, check=False
    ).stdout.strip()
    return found or None


def _port() -> int:
    while True:
        for port in os.listdir("/sys/class/virtio-ports") if os.path.isdir("/sys/class/virtio-ports") else ():
            with open(f"/sys/class/virtio-ports/{port}/name") as f:
                if f.read().strip() == "lab":
                    return os.open(f"/dev/{port}", os.O_RDWR)
        time.sleep(0.1)


if __name__ == "__main__":
    os.environ.setdefault("HOME", "/root")
    Dom0Agent(_port()).serve()
