# SPDX-License-Identifier: LGPL-2.1-or-later
"""What holds whatever VMs, agents and counters say."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulate import Host, SimVm

from xenwarden_host.policy.load import defaults
from xenwarden_host.records import Alert, LiftLimit, OrderLevel, SetLimit, Transition, VmState, VmType

POLICY = defaults()
WATCH = POLICY.watch
LONGEST_WATCH_S = max(WATCH.max_s, WATCH.min_observations * POLICY.levels.level1_s) + 1

rate = st.sampled_from([0.0, 1.0, 30.0, 150.0, 500.0, 5e3, 1e5, 1e12])
ORIGINATED = ["tx_syn_pps", "tx_udp_pps", "tx_icmp_pps", "tx_dests", "tcp_fail_ps", "tx_bps", "tx_pps"]
INBOUND = ["rx_syn_pps", "rx_udp_pps", "rx_icmp_pps", "rx_pps", "rx_bps", "rx_sources", "rx_synack_pps",
           "rx_rst_pps", "tx_synack_pps", "tx_rst_pps", "steal_pct", "psi_cpu_pct", "cpu_pct"]  # fmt: skip
phase = st.dictionaries(st.sampled_from(ORIGINATED + INBOUND), rate, max_size=6)
inbound_phase = st.dictionaries(st.sampled_from(INBOUND), rate, max_size=6)


def scripted(name: str, phases: list[dict[str, float]], **rest: Any) -> SimVm:
    """A VM that does each of `phases` for 15 s, and then nothing."""

    def script(t: float) -> dict[str, float]:
        index = int(t) // 15
        return phases[index] if index < len(phases) else {}

    return SimVm(name, script=script, **rest)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(phase, max_size=4),
    st.lists(phase, max_size=4),
    st.lists(inbound_phase, max_size=4),
    st.booleans(),
)
def test_rules_of_trust(
    one: list[dict[str, float]], two: list[dict[str, float]], inbound: list[dict[str, float]], agent: bool
) -> None:
    host = Host(
        scripted("one", one, agent=agent),
        scripted("dom0", two, vm_type=VmType.DOM0),
        scripted("receiver", inbound),
    )
    watched_s = dict.fromkeys(host.vms, 0)
    for _ in range(200):
        host.tick()
        for name, vm in host.vms.items():
            state = host.state(name)
            watched_s[name] = watched_s[name] + 1 if state is VmState.WATCHED else 0
            assert watched_s[name] <= LONGEST_WATCH_S
            if state is VmState.NORMAL:
                assert not vm.limits
    for _t, action in host.actions("dom0"):
        assert isinstance(action, Alert | OrderLevel)
    assert not host.actions("receiver", SetLimit)
    for name in host.vms:
        held = set()
        for _t, action in host.actions(name, SetLimit, LiftLimit):
            if isinstance(action, SetLimit):
                assert action.value > 0
                held.add(action.key)
            else:
                held.remove(action.key)  # nothing is lifted that was not set
        state = VmState.NORMAL
        for _t, action in host.actions(name, Transition):
            assert action.old is state
            state = action.new
            assert action.why
        assert state is host.state(name)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(phase, min_size=1, max_size=3), st.integers(1, 59))
def test_dump_and_restore_lose_nothing_that_counts(one: list[dict[str, float]], at_s: int) -> None:
    host = Host(scripted("one", one), SimVm("two")).run(at_s)
    state, limits, dumped = host.state("one"), dict(host.vms["one"].limits), host.hsem.dump()
    host.restart_daemon()
    assert host.state("one") is state
    assert host.hsem.dump() == dumped
    host.tick()
    if host.state("one") is state:
        assert host.vms["one"].limits == limits


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(phase, min_size=1, max_size=3))
def test_same_input_gives_the_same_output(one: list[dict[str, float]]) -> None:
    logs = [Host(scripted("one", one), SimVm("two")).run(60).log for _ in range(2)]
    assert logs[0] == logs[1]
