# SPDX-License-Identifier: LGPL-2.1-or-later
"""xenwardend as a process that is killed: its Xen and its vifs live in another one, which outlives it.

    python3 fault_daemon.py MACHINE_SOCKET

Each line on standard input is a JSON list of xenwardend's arguments: a daemon begins, forked from this
process since that costs a tenth of starting Python anew. It runs the shipped `serve` until it is killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from multiprocessing.connection import Client
from typing import TYPE_CHECKING, Any, NoReturn

from xenwarden_channel.fake import FakeStore
from xenwarden_host.daemon import build, service  # noqa: F401  loaded once, before the forks
from xenwarden_host.daemon import main as daemon
from xenwarden_host.limits.journal import Journal

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


_PR_SET_PDEATHSIG = 1


class Remote:
    """One part of the machine, called over the connection: every call is a fault point there."""

    def __init__(self, connection: Connection, part: str) -> None:
        self._connection = connection
        self._part = part

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._connection.send((self._part, name, args, kwargs))
            answer, error = self._connection.recv()
            if error is not None:
                kind, members, words = error
                raised = kind.__new__(kind, *words)
                raised.__dict__.update(members)
                raise raised
            return answer

        return call


def point_out(machine: Connection) -> None:
    """Make the begin and the end of every write to the journal a fault point too."""
    remote = Remote(machine, "journal")

    def pointed(name: str) -> Any:
        method = getattr(Journal, name)

        def call(self: Journal, *args: Any, **kwargs: Any) -> Any:
            getattr(remote, f"begin{name}")()
            answer = method(self, *args, **kwargs)
            getattr(remote, f"end{name}")()
            return answer

        return call

    for name in ("save", "_upgrade", "_note_boot"):
        setattr(Journal, name, pointed(name))


def run(address: str, arguments: list[str]) -> NoReturn:
    """Be the daemon."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # whoever kills the test leaves none behind
    machine = Client(address, "AF_UNIX")
    machine.send(os.getpid())
    point_out(machine)
    options = daemon.arguments().parse_args(arguments)
    daemon.log_to_stderr(verbose=False, debug=False)
    lock = daemon.take_instance(options)
    store = FakeStore()
    xen, vifs = Remote(machine, "xen"), Remote(machine, "vifs")
    daemon.serve(options, hypervisor=xen, store=store, vifs=vifs, vbds=None)
    os.close(lock)
    os._exit(0)


def main() -> None:
    """Fork a daemon for each line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            run(sys.argv[1], json.loads(line))


if __name__ == "__main__":
    main()
