# SPDX-License-Identifier: LGPL-2.1-or-later
"""The built-in policy is whole, and a file over it replaces just what it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from xenwarden_channel.signals import SIGNALS
from xenwarden_host.errors import ConfigError
from xenwarden_host.hsem.detectors import DETECTORS
from xenwarden_host.policy.load import defaults, load, schema
from xenwarden_host.policy.model import FailSafe, Role, RuleKind
from xenwarden_host.records import LimitKey, LimitKind, PacketClass

if TYPE_CHECKING:
    from pathlib import Path

    from xenwarden_host.policy.model import Policy


def over(tmp_path: Path, text: str) -> Policy:
    file = tmp_path / "xenwarden.yaml"
    file.write_text(text)
    return load(file)


def test_defaults_are_whole() -> None:
    policy = defaults()
    assert policy.tick_s == 1
    assert (policy.levels.level1_s, policy.levels.level2_s) == (5, 1)
    assert policy.release.probation_s == 30
    assert {"unknown", "web", "batch", "database"} <= set(policy.profiles)
    # Every profile has every prior, in the same order: History counts on it.
    assert len({tuple(upper) for upper in policy.profiles.values()}) == 1
    assert policy.profiles["web"]["rx_syn_pps"] > policy.profiles["unknown"]["rx_syn_pps"]
    assert policy.profiles["web"]["tx_icmp_pps"] == policy.profiles["unknown"]["tx_icmp_pps"]
    assert set(policy.roles) == set(Role)
    assert policy.fail_safe is FailSafe.KEEP
    for rule in policy.rules:
        # Who fills its memory is refused more, and the other is only looked at.
        if rule.name not in ("overflow-memory", "joins-flood", "many-connections"):
            assert bool(rule.limits) == (rule.kind is RuleKind.ORIGINATED)
        assert set(rule.limits) <= set(policy.limits)
    wanted = {LimitKey(LimitKind.VIF_PPS, kind) for kind in PacketClass}
    assert set(policy.limits) == wanted | {LimitKey(LimitKind.CAP), LimitKey(LimitKind.VIF_RATE)}
    for limit in policy.limits.values():
        assert limit.contained.times <= limit.provisional.times
        assert limit.signal in policy.profiles["unknown"]
    assert set(policy.sources.values()) == {"built-in"}


def test_every_surge_has_a_prior_to_be_compared_with() -> None:
    policy = defaults()
    for rule in policy.rules:
        for group in (*rule.raises, *rule.convicts):
            for spec in group:
                if spec.name in ("surge", "starves-neighbours"):
                    assert spec.arguments["signal"] in policy.profiles["unknown"], rule.name


def test_schema_knows_the_signals_and_detectors_that_there_are() -> None:
    data = schema()
    assert data["$defs"]["signal"]["enum"] == list(SIGNALS)
    groups = data["properties"]["rules"]["additionalProperties"]["properties"]["raise"]
    assert set(groups["items"]["items"]["properties"]) == set(DETECTORS)


def test_a_file_replaces_what_it_names_and_says_so(tmp_path: Path) -> None:
    policy = over(
        tmp_path,
        """\
release:
  probation_s: 120
profiles:
  unknown:
    upper: {tx_syn_pps: 400}
  mail:
    upper: {tcp_fail_ps: 100}
vms:
- {name: "mx*", profile: mail, protect: true}
- {uuid: 01234567-89AB-cdef-0123-456789abcdef, exempt: true}
provider_networks: [10.1.0.0/16]
""",
    )
    base = defaults()
    assert policy.release.probation_s == 120
    assert policy.release.repeat_s == base.release.repeat_s
    assert policy.profiles["unknown"]["tx_syn_pps"] == 400
    assert policy.profiles["mail"]["tx_syn_pps"] == 400
    assert policy.profiles["mail"]["tcp_fail_ps"] == 100
    assert policy.provider_networks == ("10.1.0.0/16",)
    assert policy.rules == base.rules

    mx = policy.vm("any", "mx1")
    assert (mx.profile, mx.protect, mx.exempt) == ("mail", True, False)
    assert policy.vm_sources("any", "mx1")["protect"].endswith("xenwarden.yaml:9")
    assert policy.vm("01234567-89ab-cdef-0123-456789abcdef", "x").exempt
    assert policy.vm("any", "other") == base.vm("any", "other")

    assert policy.sources["release.probation_s"].endswith("xenwarden.yaml:2")
    assert policy.sources["release.repeat_s"] == "built-in"
    assert policy.sources["provider_networks"].endswith(":11")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("relase: {}\n", "1: unknown key 'relase', did you mean 'release'?"),
        ("release:\n  probation: 3\n", "2: release: unknown key 'probation', did you mean 'probation_s'?"),
        ("release:\n  probation_s: -1\n", "2: release.probation_s: expected a number of at least 0"),
        ("provider_networks:\n- 10.0.0.0/8\n- 10.0.0.1/8\n", "3: expected a network such as 10.0.0.0/8"),
        ("vms:\n- name: a\n  profile: wep\n", "3: unknown profile 'wep', expected one of batch, database"),
        ("vms:\n- profile: web\n", "2: vms.0: expected either a name or a uuid"),
        (
            "vms:\n- {name: a, uuid: 01234567-89ab-cdef-0123-456789abcdef}\n",
            "2: vms.0: expected either a name or a",
        ),
        ("vms:\n- uuid: xyz\n", "2: vms.0.uuid: expected a UUID such as"),
        (
            "profiles:\n  web:\n    upper: {tx_sin_pps: 3}\n",
            "3: profiles.web.upper: unknown key 'tx_sin_pps'",
        ),
        ("rules:\n  mine:\n    kind: alert\n", "2: rules.mine: expected key 'raise', which is missing"),
        (
            "rules:\n  mine:\n    kind: inbound\n    raise:\n    - [surge: {signal: rx_pps}]\n",
            "2: rules.mine: expected",
        ),
        (
            "rules:\n  incoming-syn-flood:\n    limits: [cap]\n",
            "2: rules.incoming-syn-flood: only a rule of kind",
        ),
        (
            "rules:\n  m:\n    kind: alert\n    raise:\n    - [surge: {signl: rx_pps}]\n",
            "5: rules.m.raise.0.0.surge",
        ),
        (
            "rules:\n  m:\n    kind: alert\n    raise:\n    - [serge: {signal: rx_pps}]\n",
            "did you mean 'surge'?",
        ),
        ("limits:\n  vif-pps/sin: {}\n", "2: limits: unknown key 'vif-pps/sin', did you mean 'vif-pps/syn'?"),
        ("watch:\n  undecided: victim\n", "2: watch.undecided: expected one of neither, attacker"),
        ("fail_safe: keeep\n", "1: fail_safe: expected one of keep, release (did you mean 'keep'?)"),
        ("tick_s: 0\n", "1: tick_s: expected a number of at least 0.1"),
    ],
)
def test_a_bad_policy_gets_line_and_expectation(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        over(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'xenwarden.yaml'}:")
    assert message in str(caught.value)
