# SPDX-License-Identifier: LGPL-2.1-or-later
"""Put the warden together from its parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xenwarden_host.audit import Audit
from xenwarden_host.daemon.killswitch import KillSwitch
from xenwarden_host.daemon.tracker import Tracker
from xenwarden_host.daemon.warden import Warden
from xenwarden_host.database import FILE_NAME, Database, set_aside_if_damaged
from xenwarden_host.hrem.grantbook import GrantBook
from xenwarden_host.hrem.history import History
from xenwarden_host.hrem.hrem import Hrem
from xenwarden_host.hrem.tracing import Tracing
from xenwarden_host.hsem.hsem import Hsem
from xenwarden_host.limits.engine import LimitEngine
from xenwarden_host.limits.journal import Journal

if TYPE_CHECKING:
    from xenwarden_host.policy.model import Policy
    from xenwarden_host.protocols import Clock, Hypervisor, Store, VbdControl, VifControl

# Apart from the limits' journal: what is granted or lent is no original of a limit.
GRANTS_FILE = "grants.db"
TRACE_FILE = "trace"  # in the run directory
PROC = Path("/proc")


def build_warden(
    *,
    hypervisor: Hypervisor,
    store: Store,
    vifs: VifControl,
    vbds: VbdControl | None,
    clock: Clock,
    policy: Policy,
    state_dir: Path,
    run_dir: Path,
    kill_file: Path,
    sys_root: Path,
    dry_run: bool,
) -> Warden:
    """Return a warden that works by `policy`, with its state in `state_dir`.

    Raises:
        XenwardenError: the database cannot be had.
    """
    path = state_dir / FILE_NAME
    # The database first: it sets a damaged file aside before the journal opens it.
    database = Database(path, audit_rows=policy.audit.max_records, audit_days=policy.audit.max_days)
    journal = Journal(path)
    grants_path = state_dir / GRANTS_FILE
    database.notices += set_aside_if_damaged(grants_path)
    grants_path.touch(mode=0o600)
    history = History(policy)
    grants = GrantBook(hypervisor, Journal(grants_path))
    return Warden(
        policy=policy,
        tracker=Tracker(hypervisor, store, clock, passive=dry_run),
        history=history,
        hrem=Hrem(sys_root),
        hsem=Hsem(policy, history),
        engine=LimitEngine(hypervisor, vifs, journal, clock, vbds, grants.own_text),
        grants=grants,
        hypervisor=hypervisor,
        store=store,
        vifs=vifs,
        journal=journal,
        database=database,
        audit_log=Audit(database, clock),
        kill_switch=KillSwitch(run_dir / "kill-switch", kill_file),
        clock=clock,
        tracing=Tracing(hypervisor, run_dir / TRACE_FILE, PROC),
        dry_run=dry_run,
    )
