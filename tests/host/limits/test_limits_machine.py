# SPDX-License-Identifier: LGPL-2.1-or-later
"""Any sequence of decisions, admin's changes, migrations, reboots, restarts and deaths.

Beside the host runs a model of what it would be had xenwarden never been there (`native_*`). After each
tick every place has exactly the stricter of that and of what is decided; where nothing is decided,
exactly that.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from limits_harness import CAP, RATE, SYN, VM, Fault, Host, Killed

from xenwarden_host.limits.vif_rate import queue_bps
from xenwarden_host.records import LimitKey  # noqa: TC001  hypothesis reads the annotations of rules

# What an admin sets never equals what we set: nobody could tell the one from the other.
ADMINS_CAPS = [0, 5, 15, 35, 90]
OUR_CAPS = [10, 20, 50]
ADMINS_RATES = [None, "4000,40000", "50000,50000", "junk", "700,0"]
OUR_RATES = [500_000, 2_000_000, 10_000_000]
OWNERS = ["operator:root", "hsem"]


class Limits(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="xenwarden-limits-", dir="/dev/shm"))
        self.wants: dict[tuple[LimitKey, str], int] = {}
        # Said since the last tick: whoever decided says it again where the daemon died before that.
        self.said: set[tuple[LimitKey, str]] = set()
        self.settled = False

    @initialize(cap=st.sampled_from(ADMINS_CAPS), rate=st.sampled_from(ADMINS_RATES))
    def start(self, cap: int, rate: str | None) -> None:
        self.host = Host(self.folder, cap=cap)
        self.host.vifs.set_rate(self.host.domid, 0, rate)
        self.native_cap, self.native_rate = cap, rate
        self.saved: tuple[int, int] | None = None  # native and real cap in a save file
        self.runs = True

    def teardown(self) -> None:
        if self.host.journal:
            self.host.journal.close()
        shutil.rmtree(self.folder)

    # --- decisions ---

    @rule(value=st.sampled_from(OUR_CAPS), owner=st.sampled_from(OWNERS))
    def want_cap(self, value: int, owner: str) -> None:
        self.want(CAP, value, owner)

    @rule(value=st.sampled_from(OUR_RATES), owner=st.sampled_from(OWNERS))
    def want_rate(self, value: int, owner: str) -> None:
        self.want(RATE, value, owner)

    @rule(value=st.sampled_from([1, 100]))
    def want_syn(self, value: int) -> None:
        self.want(SYN, value, "hsem")

    def want(self, key: LimitKey, value: int, owner: str) -> None:
        self.host.want(key, value, owner)
        self.wants[key, owner] = value
        self.said.add((key, owner))
        self.settled = False

    @rule(key=st.sampled_from([CAP, RATE, SYN]), owner=st.sampled_from(OWNERS))
    def lift(self, key: LimitKey, owner: str) -> None:
        self.host.engine.lift(VM, key, owner)
        self.wants.pop((key, owner), None)
        self.said.discard((key, owner))
        self.settled = False

    @rule()
    def lift_all(self) -> None:
        self.host.engine.lift_all(VM)
        self.wants.clear()
        self.said.clear()
        self.settled = False

    # --- the world ---

    @precondition(lambda self: self.runs)
    @rule(cap=st.sampled_from(ADMINS_CAPS))
    def admin_sets_cap(self, cap: int) -> None:
        self.host.xen.set_sched_params(self.host.domid, cap=cap)
        self.native_cap = cap
        self.settled = False

    @precondition(lambda self: self.runs)
    @rule(rate=st.sampled_from(ADMINS_RATES))
    def admin_sets_rate(self, rate: str | None) -> None:
        self.host.vifs.set_rate(self.host.domid, 0, rate)
        self.native_rate = rate
        self.settled = False

    @precondition(lambda self: self.runs)
    @rule()
    def migrate(self) -> None:
        self.host.migrate()
        self.native_rate = None
        self.settled = False

    @precondition(lambda self: self.runs and self.settled)
    @rule()
    def save(self) -> None:
        self.saved = (self.native_cap, self.host.cap or 0)

    @precondition(lambda self: self.runs and self.settled)
    @rule(tick=st.booleans())
    def shut_down(self, *, tick: bool) -> None:
        self.host.xen.destroy(self.host.domid)
        self.host.vifs.vifs.clear()
        self.runs = self.settled = False
        if tick:
            self.host.tick()
            self.said.clear()

    @precondition(lambda self: not self.runs and self.saved is not None and self.saved[0] == self.native_cap)
    @rule()
    def restore(self) -> None:
        assert self.saved is not None
        self.come_back(self.saved[1])

    @precondition(lambda self: not self.runs)
    @rule(cap=st.sampled_from(ADMINS_CAPS))
    def create_from_config(self, cap: int) -> None:
        self.native_cap = cap
        self.come_back(cap)

    def come_back(self, cap: int) -> None:
        self.host.domid = self.host.xen.add(VM, "mallory", cap=cap)
        self.host.vifs.add(self.host.domid)
        self.native_rate = None
        self.runs, self.settled = True, False

    @rule(dom0=st.booleans())
    def restart(self, *, dom0: bool) -> None:
        if dom0:
            self.host.boot += "+"
        self.start_again()

    @rule(at=st.integers(0, 12), after=st.booleans())
    def die_in_a_tick(self, at: int, *, after: bool) -> None:
        fault = Fault(at, after=after)
        try:
            self.start_again(fault)
            self.host.tick()
        except Killed:
            pass
        self.start_again()

    def start_again(self, fault: Fault | None = None) -> None:
        self.host.restart(fault)
        for key, owner in self.said:
            self.host.want(key, self.wants[key, owner], owner)
        self.settled = False

    @rule()
    def tick(self) -> None:
        self.host.tick()
        self.said.clear()
        self.settled = self.runs

    # --- what must be true ---

    def decided(self, key: LimitKey) -> int | None:
        return next((self.wants[key, owner] for owner in OWNERS if (key, owner) in self.wants), None)

    @invariant()
    def exactly_the_decided_or_exactly_the_original(self) -> None:
        if not self.settled:
            return
        cap, rate, syn = (self.decided(key) for key in (CAP, RATE, SYN))
        caps = [c for c in (cap, self.native_cap) if c]
        assert self.host.cap == min(caps, default=0)
        native = queue_bps(self.native_rate)
        if rate is None or (native is not None and native <= rate):
            assert self.host.rate == self.native_rate
        else:
            assert self.host.rate == f"{rate // 200},40000"
        police = self.host.vifs.police(self.host.domid)[0]
        assert police == ({} if syn is None else {SYN.match: syn})
        held = {key for key, _owner in self.wants}
        assert self.host.engine.held(VM) == held


Limits.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, suppress_health_check=list(HealthCheck)
)
TestLimits = Limits.TestCase
