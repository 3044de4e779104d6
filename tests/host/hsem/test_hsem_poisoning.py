# SPDX-License-Identifier: LGPL-2.1-or-later
"""An attacker that raises what is usual for it by small steps, day after day, and knows the limit."""

from __future__ import annotations

import pytest

from xenwarden_host.hrem.history import History
from xenwarden_host.hsem.hsem import Hsem
from xenwarden_host.policy.load import defaults
from xenwarden_host.records import AgentState, Report, Snapshot, Transition, VmState, VmType, VmView

DAY_S = 86400.0
INTERVAL_S = 600.0
MOST = 0.95  # of what is usual for it: just not told of
FLOOD = {"tx_pps": 1.0, "rx_pps": 0.1, "rx_synack_pps": 0.1}  # for each SYN
HELD = {"tcp_held": 1.5}  # open connections for each that it holds up
CLIENT = {"tx_pps": 6.0, "rx_pps": 6.0, "rx_synack_pps": 1.0, "tcp_open_ps": 1.0}


class Poisoner:
    """One VM, and how far it got."""

    def __init__(self, shape: dict[str, float], signal: str = "tx_syn_pps") -> None:
        policy = defaults()
        self.history = History(policy)
        self.prior = policy.profiles["unknown"][signal]
        self._signal = signal
        self.raised = 0
        self._hsem = Hsem(policy, self.history)
        self._shape = shape
        self._now_s = 0.0
        self._seq = 0

    def limit(self) -> float:
        """Return what is usual, in times what policy takes for ordinary."""
        return (self.history.upper("u", self._signal) or 0.0) / self.prior

    def live(self, days: float, pps: float | None = None) -> float:
        """Send `pps`, or as much as goes unnoticed, for so many days; return the limit then."""
        for _ in range(int(days * DAY_S / INTERVAL_S)):
            self.report(MOST * self.limit() * self.prior if pps is None else pps)
        return self.limit()

    def report(self, pps: float) -> None:
        self._now_s += INTERVAL_S
        self._seq += 1
        signals = {"tx_pps": 10.0, "rx_pps": 10.0, "tx_dests": 3.0, "tx_top_share": 0.9, "tcp_fail_ps": 0.0,
                   self._signal: pps}  # fmt: skip
        for name, each in self._shape.items():
            signals[name] = signals.get(name, 0.0) + each * pps
        report = Report(
            seq=self._seq, boot="00000001", level=1, why="", over=(), interval_s=INTERVAL_S, signals=signals,
            missing=(), agent_version="", agent_rss_kb=0, agent_cpu_s=0.0, agent_up_s=0.0, near_max=0,
            near_max_of=0,
        )  # fmt: skip
        view = VmView(
            uuid="u", domid=1, name="u", vm_type=VmType.PV, vcpus=1, known_s=self._now_s, paused=False,
            hrem={}, agent=AgentState.ALIVE, report=report, report_is_new=True, report_age_s=0.0, answer=None,
            passed_s=INTERVAL_S,
        )  # fmt: skip
        actions = self._hsem.decide(Snapshot(self._now_s, 1.7e9 + self._now_s, (view,)))
        self.raised += sum(
            isinstance(action, Transition) and action.new is VmState.WATCHED for action in actions
        )


def test_what_looks_like_a_flood_never_becomes_usual() -> None:
    poisoner = Poisoner(FLOOD)
    assert poisoner.live(14) <= 1
    poisoner.report(2 * poisoner.prior)
    assert poisoner.raised


def test_connections_that_are_held_up_never_become_usual() -> None:
    poisoner = Poisoner(HELD, "tcp_stalling")
    assert poisoner.live(14) <= 1
    poisoner.report(2 * poisoner.prior)
    assert poisoner.raised


@pytest.mark.parametrize(("days", "times"), [(1, 1.6), (7, 4.0), (14, 5.4)])
def test_honest_work_that_grows_becomes_usual_slowly(days: float, times: float) -> None:
    """So it does for who only pretends, and pays for each connection: weeks for what is far from ordinary."""
    poisoner = Poisoner(CLIENT)
    assert poisoner.live(0.5, 5.0) < 1
    assert 1 < poisoner.live(days - 0.5) <= times


def test_small_steps_of_a_busy_vm_are_learnt_as_before() -> None:
    poisoner = Poisoner(CLIENT)
    assert poisoner.live(3, 1.2 * poisoner.prior) == pytest.approx(2.4, rel=0.05)
