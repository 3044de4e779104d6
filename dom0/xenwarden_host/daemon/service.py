# SPDX-License-Identifier: LGPL-2.1-or-later
"""The running daemon: the warden on its loop, with timer, store events, control socket and signals."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING, Self

from xenwarden_host import __version__, audit
from xenwarden_host.control.answers import EVENTS, RECORDING, Answers
from xenwarden_host.control.peers import Peer, Role, Roles, peer_of
from xenwarden_host.control.server import ControlServer
from xenwarden_host.daemon.alerts import Alerts
from xenwarden_host.daemon.build import build_warden
from xenwarden_host.daemon.loop import READ, Loop
from xenwarden_host.daemon.notify import notify, watchdog_interval_s
from xenwarden_host.daemon.policies import Policies
from xenwarden_host.errors import HypervisorError, XenwardenError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from xenwarden_host.policy.model import Policy
    from xenwarden_host.protocols import Clock, Hypervisor, Store, VbdControl, VifControl

log = logging.getLogger("xenwarden")

# Store events are taken at most this often: a guest that writes without pause costs wake-ups, no more.
_EVENTS_EVERY_S = 0.1
# A tick out of turn, for a report that newly shows level 2, comes no sooner than this after the last.
_EARLY_TICK_S = 0.25
_SETTLE_EVERY_S = 0.25
_LAST_ALERTS_S = 2.0  # what a stop waits for alerts under way


class Service:
    """xenwardend on a hypervisor, a store and vifs, real or fake; a context manager.

    Raises:
        XenwardenError: the policy, the database or the control socket is not to be had.
    """

    def __init__(
        self,
        *,
        hypervisor: Hypervisor,
        store: Store,
        vifs: VifControl,
        vbds: VbdControl | None,
        clock: Clock,
        config: Path | None,
        default_config: Path,
        state_dir: Path,
        run_dir: Path,
        kill_file: Path,
        sys_root: Path,
        dry_run: bool,
        credentials: Callable[[socket.socket], Peer] = peer_of,
    ) -> None:
        self._store = store
        self._clock = clock
        self._config = config
        self._default_config = default_config
        self._policies = Policies(self.policy_file())
        policy = self._policies.policy
        self.warden = build_warden(
            hypervisor=hypervisor,
            store=store,
            vifs=vifs,
            vbds=vbds,
            clock=clock,
            policy=policy,
            state_dir=state_dir,
            run_dir=run_dir,
            kill_file=kill_file,
            sys_root=sys_root,
            dry_run=dry_run,
        )
        self._loop = Loop(clock)
        try:
            host = hypervisor.host_info()
        except HypervisorError:
            host = None
        path = run_dir / "control.sock"
        try:
            self._control = ControlServer(
                self._loop,
                path,
                Answers(self.warden, self.policy_file, host),
                _roles(policy),
                clock,
                credentials=credentials,
            )
        except OSError as error:
            raise XenwardenError(f"cannot listen at {path}: {error.strerror}") from error
        self.warden.audit.subscribe(lambda event: self._control.publish(EVENTS, event))
        self.warden.publish_recording = lambda lines: self._control.publish(RECORDING, lines)
        self.warden.take_policy_nodes = self._take_policy_nodes
        self._alerts = Alerts(lambda: self.warden.policy.alerts, self._count_alert)
        if not dry_run:
            self.warden.audit.subscribe(self._alerts.notice)
        self._last_tick_s = float("-inf")
        self._early_tick_due = False
        self._settle_due = False

    def __enter__(self) -> Self:
        warden = self.warden
        warden.restore()
        for notice in warden.database.notices:
            log.error("%s", notice)
        warden.audit.record(
            "daemon-start",
            who=audit.DAEMON,
            text=f"xenwardend {__version__} started" + (" with --dry-run" if warden.dry_run else ""),
            version=__version__,
            policy=str(self.policy_file() or "built-in"),
        )
        self._loop.at(self._clock.monotonic(), self._timer_tick)
        self._watch_events()
        if (interval_s := watchdog_interval_s()) is not None:
            self._watchdog(interval_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        warden = self.warden
        if kind is None:
            if not warden.dry_run:
                warden.fail_safe()
            kept = len(warden.engine.status())
            text = f"xenwardend stopped; limits kept: {kept or 'none'}"
            warden.audit.record("daemon-stop", who=audit.DAEMON, text=text)
            self._alerts.finish(_LAST_ALERTS_S)
        warden.save(all_of_it=True)
        warden.tracing.close()
        self.abandon()

    def abandon(self) -> None:
        """Free what the process would lose by dying now, and do nothing else."""
        self._control.close()
        self._loop.close()
        self.warden.close()

    def run(self) -> None:
        """Work until a signal says stop."""
        self._loop.run()

    def step(self, max_wait_s: float) -> None:
        """Do what comes next, waiting for it no longer than `max_wait_s`."""
        self._loop.run_once(max_wait_s)

    def stop(self) -> None:
        """Have `run` return."""
        self._loop.stop()

    def take_signals_from(self, fd: int) -> None:
        """Take signal numbers from the pipe that `signal.set_wakeup_fd` writes to."""
        self._loop.watch(fd, READ, lambda _events: self._take_signals(fd))

    def policy_file(self) -> Path | None:
        """Return the policy's file: the one that was named, else the default one where it exists."""
        if self._config is not None:
            return self._config
        return self._default_config if self._default_config.exists() else None

    def reload(self) -> None:
        """Read the policy again. One that is refused is told, and the old one stays."""
        warden = self.warden
        try:
            self._policies.load(self.policy_file())
        except XenwardenError as error:
            warden.audit.record(
                "policy-refused",
                who=audit.DAEMON,
                text=f"the new policy was refused, the old one stays: {error.message}",
                level=logging.ERROR,
            )
            return
        warden.set_policy(self._policies.policy)
        self._control.set_roles(_roles(warden.policy))
        warden.audit.record(
            "policy-loaded",
            who=audit.DAEMON,
            text=f"policy read again from {self.policy_file() or 'what is built in'}",
        )

    def _take_policy_nodes(self, nodes: dict[str, bytes]) -> None:
        tracker = self.warden.tracker
        names = {uuid: guest.info.name for uuid, guest in tracker.vms().items()}
        self._policies.take(nodes, tracker.policy_nodes.left_out, names, self.warden.audit)
        self.warden.set_policy(self._policies.policy)

    # --- what the loop calls -----------------------------------------------------------------------

    def _count_alert(self) -> None:
        self.warden.errors["alerts"] += 1

    def _timer_tick(self) -> None:
        now_s = self._clock.monotonic()
        self._loop.at(now_s + self.warden.policy.tick_s, self._timer_tick)
        self._tick()

    def _tick(self) -> None:
        self._last_tick_s = self._clock.monotonic()
        self.warden.tick()
        self._plan_settling()

    def _plan_settling(self) -> None:
        if not self._settle_due and self.warden.settling():
            self._settle_due = True
            self._loop.at(self._clock.monotonic() + _SETTLE_EVERY_S, self._settle)

    def _settle(self) -> None:
        self._settle_due = False
        self.warden.settle()
        self._plan_settling()

    def _watch_events(self) -> None:
        self._loop.watch(self._store.event_fd(), READ, self._take_events)

    def _take_events(self, _events: int) -> None:
        """Take the store's events, then leave it alone for a moment: guests may fire them without end."""
        self._loop.unwatch(self._store.event_fd())
        now_s = self._clock.monotonic()
        self._loop.at(now_s + _EVENTS_EVERY_S, self._watch_events)
        if self.warden.listen() and not self._early_tick_due:
            self._early_tick_due = True
            self._loop.at(max(now_s, self._last_tick_s + _EARLY_TICK_S), self._early_tick)
        self._plan_settling()

    def _early_tick(self) -> None:
        self._early_tick_due = False
        self._tick()

    def _watchdog(self, interval_s: float) -> None:
        notify("WATCHDOG=1")
        self._loop.at(self._clock.monotonic() + interval_s, lambda: self._watchdog(interval_s))

    def _take_signals(self, fd: int) -> None:
        for number in os.read(fd, 64):
            if number == signal.SIGHUP:
                notify("RELOADING=1")
                try:
                    self.reload()
                finally:  # systemd waits for it
                    notify("READY=1")
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._loop.stop()


def _roles(policy: Policy) -> Roles:
    return Roles({Role[role.name]: groups for role, groups in policy.roles.items()})
