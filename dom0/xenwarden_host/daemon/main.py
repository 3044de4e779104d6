# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwardend`: arguments, one instance, signals, and the parts put together."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import resource
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from xenwarden_channel.errors import StoreError
from xenwarden_host import __version__, audit
from xenwarden_host.daemon.clock import SystemClock
from xenwarden_host.daemon.notify import notify
from xenwarden_host.daemon.service import Service
from xenwarden_host.errors import XenwardenError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from xenwarden_host.protocols import Hypervisor, Store, VbdControl, VifControl

log = logging.getLogger("xenwarden")

STORE_DEADLINE_S = 2.0  # the loop waits for an answer no longer: ticks must go on
CONFIG = Path("/etc/xen/xenwarden.yaml")
STATE_DIR = Path("/var/lib/xenwarden")
RUN_DIR = Path("/run/xenwarden")
_PRIVCMD = Path("/dev/xen/privcmd")
KILL_FILE = Path("/etc/xen/xenwarden.kill")
_DESCRIPTORS = 32768  # enough for a thousand VMs


def arguments() -> argparse.ArgumentParser:
    """Return the parser of xenwardend's command line."""
    parser = argparse.ArgumentParser(
        prog="xenwardend",
        description="Watch the VMs of this Xen host, limit those that attack, and put back what was there "
        "before. Runs in the foreground.",
        epilog="Exit status: 0 stopped by a signal, 1 failed, 2 wrong usage. See man xenwardend.",
    )
    add_places(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="decide and log; write nothing to guests, set no limit"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log each write to a guest and each step of a limit too"
    )
    parser.add_argument("--debug", action="store_true", help="the same, and tracebacks with errors")
    parser.add_argument("--version", action="version", version=f"xenwardend {__version__}")
    return parser


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where policy and state are."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"the policy; by default {CONFIG}, or what is shipped where that is missing",
    )
    parser.add_argument(
        "--state-dir", type=Path, default=STATE_DIR, metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--run-dir", type=Path, default=RUN_DIR, metavar="DIR", help="default: %(default)s")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon until it is told to stop; return the exit status."""
    options = arguments().parse_args(argv)
    log_to_stderr(verbose=options.verbose, debug=options.debug)
    try:
        return _run(options)
    except XenwardenError as error:
        told, hint = error.message, error.hint
    except StoreError as error:
        told, hint = str(error), "is xenstored running? see: systemctl status xenstored"
    log.error("%s", told)
    if hint:
        log.error("%s", hint)
    return 1


def _run(options: argparse.Namespace) -> int:
    with machine() as (hypervisor, store, vifs, vbds):
        lock = take_instance(options)
        try:
            serve(options, hypervisor=hypervisor, store=store, vifs=vifs, vbds=vbds)
        finally:
            os.close(lock)
    return 0


@contextmanager
def machine() -> Iterator[tuple[Hypervisor, Store, VifControl, VbdControl]]:
    """Yield this dom0's Xen, XenStore, vifs and disks.

    Raises:
        XenwardenError, StoreError: this is no dom0, or XenStore is not to be had.
    """
    from xenwarden_channel.client import StoreClient  # noqa: PLC0415  --help and --version run anywhere
    from xenwarden_host.libxl.xenlight import Xenlight  # noqa: PLC0415  likewise: it needs the compiled binding
    from xenwarden_host.limits.vbd import DomainVbds  # noqa: PLC0415  likewise
    from xenwarden_host.limits.vif import DomainVifs  # noqa: PLC0415  likewise

    if not _PRIVCMD.exists():
        raise XenwardenError(
            f"this is no Xen dom0: there is no {_PRIVCMD}", hint="boot Xen, then: modprobe xen-privcmd"
        )
    store = StoreClient(deadline_s=STORE_DEADLINE_S)
    try:
        hypervisor = Xenlight(store)
        try:
            yield hypervisor, store, DomainVifs(store), DomainVbds(store)
        finally:
            hypervisor.close()
    finally:
        store.close()


def raise_descriptors() -> None:
    """Let this process have as many descriptors as HREM can use: it keeps dom0's counters open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def take_instance(options: argparse.Namespace) -> int:
    """Make the directories and take the lock that says that one xenwardend runs; return its descriptor.

    Raises:
        XenwardenError: not root, or another one runs.
    """
    _make_directory(options.state_dir, 0o700)
    _make_directory(options.run_dir, 0o755)
    return _lock(options.run_dir / "xenwardend.lock")


def serve(
    options: argparse.Namespace,
    *,
    hypervisor: Hypervisor,
    store: Store,
    vifs: VifControl,
    vbds: VbdControl | None,
) -> None:
    """Run the daemon on this hypervisor, store and vifs until a signal stops it."""
    raise_descriptors()
    service = Service(
        hypervisor=hypervisor,
        store=store,
        vifs=vifs,
        vbds=vbds,
        clock=SystemClock(),
        config=options.config,
        default_config=CONFIG,
        state_dir=options.state_dir,
        run_dir=options.run_dir,
        kill_file=KILL_FILE,
        sys_root=Path("/sys"),
        dry_run=options.dry_run,
    )
    with service:
        _on_signals(service)
        notify("READY=1")
        service.run()
        notify("STOPPING=1")


def _on_signals(service: Service) -> None:
    """Turn signals into work of the loop: a byte in a pipe, nothing in the handler itself."""
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)
    service.take_signals_from(read_fd)


def _make_directory(path: Path, mode: int) -> None:
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise XenwardenError(f"cannot make {path}: {error.strerror}", hint="run xenwardend as root") from None


def _lock(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise XenwardenError(f"cannot open {path}: {error.strerror}", hint="run xenwardend as root") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise XenwardenError(
            f"another xenwardend runs with {path.parent}", hint="see: systemctl status xenwardend"
        ) from None
    return fd


def log_to_stderr(*, verbose: bool, debug: bool) -> None:
    """Send the log to standard error, for journald or a terminal."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(audit.JournalFormatter(debug=debug))
    root = logging.getLogger("xenwarden")
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if verbose or debug else logging.INFO)
    root.propagate = False


if __name__ == "__main__":
    sys.exit(main())
