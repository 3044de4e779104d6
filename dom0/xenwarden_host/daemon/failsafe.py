# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden-failsafe`: what becomes of limits when the daemon is gone. Needs the journal and Xen."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING

from xenwarden_channel.errors import StoreError
from xenwarden_host import __version__, audit
from xenwarden_host.audit import Audit
from xenwarden_host.daemon import main as daemon
from xenwarden_host.daemon import words
from xenwarden_host.daemon.build import GRANTS_FILE, PROC, TRACE_FILE
from xenwarden_host.daemon.clock import SystemClock
from xenwarden_host.daemon.policynodes import PolicyNodes
from xenwarden_host.database import FILE_NAME, Database, set_aside_if_damaged
from xenwarden_host.errors import ConfigError, HypervisorError, XenwardenError
from xenwarden_host.hrem.grantbook import GrantBook
from xenwarden_host.hrem.tracing import Tracing
from xenwarden_host.limits.engine import LimitEngine
from xenwarden_host.limits.journal import Journal
from xenwarden_host.policy.load import build, read
from xenwarden_host.policy.model import FailSafe
from xenwarden_host.policy.overrides import Overrides
from xenwarden_host.records import LimitState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xenwarden_host.hrem.grantbook import Id
    from xenwarden_host.policy.model import Policy
    from xenwarden_host.protocols import Hypervisor, Store, VbdControl, VifControl

# Memory, vCPUs and unpausing are begun and take their time.
_TRIES = 20
_WAIT_S = 0.5


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="xenwarden-failsafe",
        description="Keep or release each VM's limits, as the policy's fail_safe says, while xenwardend does "
        "not run. Each limit is read back.",
        epilog="Exit status: 0 done, 1 an original could not be put back or xenwardend runs, 2 wrong usage. "
        "See man xenwarden-failsafe.",
    )
    parser.add_argument(
        "--release",
        action="store_true",
        help="release all limits, whatever the policy says (package removal)",
    )
    daemon.add_places(parser)
    parser.add_argument("--version", action="version", version=f"xenwarden-failsafe {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = arguments().parse_args(argv)
    daemon.log_to_stderr(verbose=False, debug=False)
    if not (options.state_dir / FILE_NAME).exists():
        return 0  # xenwardend never ran here
    try:
        with daemon.machine() as (hypervisor, store, vifs, vbds):
            return run(options, hypervisor=hypervisor, store=store, vifs=vifs, vbds=vbds)
    except (XenwardenError, StoreError) as error:
        print(f"xenwarden-failsafe: {error}", file=sys.stderr)
        if isinstance(error, XenwardenError) and error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return 1


def run(
    options: argparse.Namespace,
    *,
    hypervisor: Hypervisor,
    store: Store,
    vifs: VifControl,
    vbds: VbdControl | None,
) -> int:
    """Do it on this hypervisor, store and vifs; return the exit status.

    Raises:
        XenwardenError: xenwardend runs, or the journal is not to be had.
    """
    lock = daemon.take_instance(options)
    policy = _policy(options, store)
    path = options.state_dir / FILE_NAME
    database = Database(path, audit_rows=policy.audit.max_records, audit_days=policy.audit.max_days)
    journal = Journal(path)
    grants_path = options.state_dir / GRANTS_FILE
    database.notices += set_aside_if_damaged(grants_path)
    grants_path.touch(mode=0o600)
    book = GrantBook(hypervisor, Journal(grants_path))
    try:
        for notice in database.notices:
            print(f"xenwarden-failsafe: {notice}", file=sys.stderr)
        clock = SystemClock()
        engine = LimitEngine(hypervisor, vifs, journal, clock, vbds, book.own_text)
        audit_log = Audit(database, clock)
        try:
            Tracing(hypervisor, options.run_dir / TRACE_FILE, PROC).stop_left()
        except HypervisorError as error:
            print(f"xenwarden-failsafe: tracing is still on: {error}", file=sys.stderr)
        left = _settle(engine, book, hypervisor, audit_log, None if options.release else policy)
        return 1 if left or database.notices else 0
    finally:
        book.close()
        journal.close()
        database.close()
        os.close(lock)


def _policy(options: argparse.Namespace, store: Store) -> Policy:
    """Return the policy; one that is wrong or cannot be read must not keep originals from being put back."""
    file = options.config or (daemon.CONFIG if daemon.CONFIG.exists() else None)
    try:
        draft = read(file)
    except ConfigError as error:
        print(f"xenwarden-failsafe: {error.message}\n  the built-in policy is used", file=sys.stderr)
        draft = read(None)
    overrides = Overrides()
    try:
        overrides.take(PolicyNodes(store).read() or {})
    except StoreError as error:
        print(f"xenwarden-failsafe: {error}\n  the policy's file alone is used", file=sys.stderr)
    return build(overrides.over(draft))


def _settle(
    engine: LimitEngine, book: GrantBook, hypervisor: Hypervisor, audit_log: Audit, policy: Policy | None
) -> int:
    """Release what `policy` (None: nobody's) does not keep; return how many originals are not back."""
    domains = hypervisor.list_domains()
    names = {domain.uuid: domain.name for domain in domains}
    kept = set()
    more = [*book.wants, *book.lent]
    for uuid in {status.uuid for status in engine.status()} | {id_[0] for id_ in more}:
        if policy is not None and policy.vm(uuid, names.get(uuid, "")).fail_safe is FailSafe.KEEP:
            kept.add(uuid)
        else:
            engine.lift_all(uuid)
            for id_ in [id_ for id_ in more if id_[0] == uuid]:
                book.end(id_)
                book.end_lent(id_)
    for attempt in range(_TRIES):
        for status in engine.reconcile(domains):
            audit_log.record(
                "fail-safe",
                who=audit.DAEMON,
                text=words.limit_change(status, names.get(status.uuid, status.uuid)),
                uuid=status.uuid,
                name=names.get(status.uuid, ""),
                kind=str(status.key),
                state=str(status.state),
                detail=status.detail,
            )
        # Where there is nothing to act on any more, nothing of ours stands.
        left = [
            status
            for status in engine.status()
            if status.uuid not in kept and status.state is not LimitState.NO_TARGET
        ]
        # What was granted or lent stands below the limits, so it goes after them.
        limited = {(status.uuid, status.key.kind) for status in engine.status()}
        for change in book.reconcile({domain.uuid: domain for domain in domains}, limited, _complain):
            name = names.get(change.id[0], change.id[0])
            audit_log.record(
                "fail-safe",
                who=audit.DAEMON,
                text=f"{name}: {change.id[1]} {change.became}: {change.has}",
                uuid=change.id[0],
                name=name,
                kind=str(change.id[1]),
                state=str(change.became),
            )
        waiting = book.unsettled() - limited
        pending = waiting or any(status.state is LimitState.PENDING for status in left)
        if not pending or attempt == _TRIES - 1:
            break
        time.sleep(_WAIT_S)
        domains = hypervisor.list_domains()
    return len(left) + len(waiting)


def _complain(id_: Id, problem: Exception) -> None:
    print(f"xenwarden-failsafe: {id_[1]} of {id_[0]}: {problem}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
