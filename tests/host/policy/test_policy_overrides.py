# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nodes of XenStore over the file: what counts, what is refused and what stays then, and who said so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenwarden_host.policy.explain import explain
from xenwarden_host.policy.load import build, read
from xenwarden_host.policy.model import FailSafe, Policy
from xenwarden_host.policy.overrides import MAX_BYTES, Overrides
from xenwarden_host.records import LimitKey

if TYPE_CHECKING:
    from pathlib import Path

    from xenwarden_host.policy.load import Draft

UUID = "01234567-89ab-cdef-0123-456789abcdef"
OTHER = "11111111-89ab-cdef-0123-456789abcdef"
ALL = "/tool/xenwarden/policy"
VM = f"/tool/xenwarden/vm/{UUID}"
FILE = """\
watch: {max_s: 30}
fail_safe: release
vms:
  - {name: "web*", profile: web, fail_safe: keep, maximum: {memory: 4096, vcpus: 4}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Draft:
    path = tmp_path / "xenwarden.yaml"
    path.write_text(FILE)
    return read(path)


def over(file: Draft, nodes: dict[str, bytes]) -> Policy:
    overrides = Overrides()
    overrides.take(nodes)
    return build(overrides.over(file))


def values(policy: Policy, name: str) -> dict[str, tuple[Any, str]]:
    return {row["key"]: (row["value"], row["source"]) for row in explain(policy, UUID, name)}


def test_node_for_all_counts_before_the_file_which_counts_before_what_is_built_in(file: Draft) -> None:
    policy = over(
        file,
        {
            f"{ALL}/watch/max_s": b"45",
            f"{ALL}/provider_networks": b"[10.1.0.0/16]\n",
            f"{ALL}/limits/vif-pps/syn/contained/at_least": b"3",
            f"{ALL}/rules/syn-flood/for_s": b"7",
            f"{ALL}/profiles/web/upper/tx_syn_pps": b"1234.5",
            f"{ALL}/watch": b"",  # a directory
        },
    )
    assert not policy.refused
    assert policy.watch.max_s == 45
    assert policy.watch.min_s == build(file).watch.min_s
    assert policy.provider_networks == ("10.1.0.0/16",)
    assert policy.limits[LimitKey.parse("vif-pps/syn")].contained.at_least == 3
    assert {rule.name: rule.for_s for rule in policy.rules}["syn-flood"] == 7
    assert policy.profiles["web"]["tx_syn_pps"] == 1234.5
    shown = values(policy, "web1")
    assert shown["watch.max_s"] == (45, f"{ALL}/watch/max_s")
    assert shown["watch.min_s"][1] == "built-in"
    assert shown["limits.vif-pps/syn.contained.at_least"][1] == f"{ALL}/limits/vif-pps/syn/contained/at_least"
    assert shown["profiles.web.upper.tx_syn_pps"] == (1234.5, f"{ALL}/profiles/web/upper/tx_syn_pps")
    assert shown["profiles.unknown.upper.rx_icmp_pps"][1] == "built-in"


def test_what_is_said_of_a_vm_counts_before_what_is_said_of_all(file: Draft) -> None:
    policy = over(
        file,
        {
            f"{ALL}/fail_safe": b"release",
            f"{ALL}/grants/self_asks": b"[memory]",
            f"{VM}/maximum/memory": b"8192",
            f"{VM}/exempt": b"yes",
        },
    )
    web = policy.vm(UUID, "web1")
    assert (web.profile, web.exempt, web.fail_safe, web.self_asks) == (
        "web", True, FailSafe.KEEP, ("memory",),
    )  # fmt: skip
    assert web.maximum == {"memory": 8192, "vcpus": 4}
    assert policy.vm(OTHER, "web1").maximum == {"memory": 4096, "vcpus": 4}
    assert policy.vm(OTHER, "mail").fail_safe is FailSafe.RELEASE
    shown = values(policy, "web1")
    assert shown["exempt"] == (True, f"{VM}/exempt")
    assert shown["maximum.memory"] == (8192, f"{VM}/maximum/memory")
    assert shown["maximum.vcpus"][1].endswith("xenwarden.yaml:4")
    assert shown["fail_safe"][1].endswith("xenwarden.yaml:4")
    assert shown["self_asks"] == (("memory",), f"{ALL}/grants/self_asks")
    assert shown["protect"] == (False, "built-in")


def test_node_of_a_vm_counts_before_its_entry_and_may_be_in_capitals(file: Draft) -> None:
    path = f"/tool/xenwarden/vm/{UUID.upper()}"
    policy = over(
        file,
        {
            f"{path}/fail_safe": b"release",
            f"{path}/profile": b"batch",
            f"{path}/self_asks": b"[vcpus, memory]",
        },
    )
    web = policy.vm(UUID, "web1")
    assert (web.fail_safe, web.profile) == (FailSafe.RELEASE, "batch")
    assert web.self_asks == ("vcpus", "memory")


@pytest.mark.parametrize(
    ("path", "raw", "why"),
    [
        ("policy/watch/max", b"3", "watch: unknown key 'max', did you mean 'max_s'?"),
        ("policy/wach/max_s", b"3", "unknown key 'wach', did you mean 'watch'?"),
        ("policy/tick_s", b"soon", "tick_s: expected a number, found 'soon'"),
        ("policy/tick_s", b"0", "tick_s: expected a number of at least 0.1, found 0"),
        ("policy/tick_s", b".nan", "expected a finite number"),
        ("policy/tick_s", b"\xff\xfe", "expected UTF-8 text, found other bytes"),
        ("policy/tick_s", b"1\x1b[2J", "expected text, found the control character '\\x1b'"),
        ("policy/tick_s", b"{", "is no valid YAML"),
        ("policy/tick_s", b" ", "expected one value"),
        ("policy/tick_s", b"1" * (MAX_BYTES + 1), f"expected at most {MAX_BYTES} bytes, found"),
        ("policy/tick_s/more", b"1", "tick_s: expected a number, found keys with values"),
        ("policy/watch", b"{max_s: 3}", "expected one value: each key has a node of its own"),
        ("policy", b"3", "expected no value here"),
        ("policy/fail_safe", b"kep", "fail_safe: expected one of keep, release (did you mean 'keep'?)"),
        ("policy/provider_networks", b"[10.0.0.1/8]", "expected a network such as 10.0.0.0/8"),
        ("policy/rules/mine/for_s", b"3", "rules.mine: expected key 'kind', which is missing"),
        ("policy/vms", b"[]", "what is said of one VM belongs below /tool/xenwarden/vm/UUID"),
        ("policy/roles/admin", b"[wheel]", "roles can be set in the file only"),
        ("policy/alerts/command", b"[/bin/sh]", "alerts can be set in the file only"),
        (f"vm/{UUID}", b"3", "expected no value here"),
        (f"vm/{UUID}/exemt", b"true", "unknown key 'exemt', did you mean 'exempt'?"),
        (f"vm/{UUID}/exempt", b"maybe", "exempt: expected true or false, found 'maybe'"),
        (
            f"vm/{UUID}/profile",
            b"wbe",
            "unknown profile 'wbe', expected one of batch, database, unknown, web",
        ),
        (f"vm/{UUID}/name", b"x", "expected a key of an entry in vms; the VM is named by the path"),
        (f"vm/{UUID}/maximum/memory", b"-1", "maximum.memory: expected a number of at least 0, found -1"),
        ("vm/web1/exempt", b"true", "uuid: expected a UUID such as"),
    ],
)
def test_bad_node_is_refused_with_the_reason_and_changes_nothing(
    file: Draft, path: str, raw: bytes, why: str
) -> None:
    good = {f"{ALL}/watch/max_s": b"45", f"{VM}/protect": b"true"}
    policy = over(file, good | {f"/tool/xenwarden/{path}": raw})
    ((node, told),) = policy.refused.items()
    assert node == f"/tool/xenwarden/{path}"
    assert told.startswith(why)
    assert "vms.0" not in told
    without = over(file, good)
    assert (policy.data, policy.nodes, policy.sources) == (without.data, without.nodes, without.sources)


def test_last_good_value_stays_until_the_node_is_gone(file: Draft) -> None:
    overrides = Overrides()
    paths = {f"{ALL}/watch/max_s": b"45", f"{VM}/exempt": b"true"}
    overrides.take(paths)
    overrides.over(file)
    overrides.take(dict.fromkeys(paths, b"nonsense"))
    for _ in range(2):  # the file is read again meanwhile
        policy = build(overrides.over(file))
        assert (policy.watch.max_s, policy.vm(UUID, "x").exempt) == (45, True)
        assert set(policy.refused) == set(paths)
    overrides.take({})
    policy = build(overrides.over(file))
    assert (policy.watch.max_s, policy.vm(UUID, "x").exempt) == (30, False)
    assert not policy.refused
    assert policy.sources["watch.max_s"].endswith("xenwarden.yaml:1")


def test_node_that_the_new_file_does_not_bear_is_refused(file: Draft, tmp_path: Path) -> None:
    path = tmp_path / "more.yaml"
    path.write_text("profiles: {mail: {upper: {tcp_fail_ps: 100}}}\n")
    overrides = Overrides()
    overrides.take({f"{VM}/profile": b"mail"})
    assert build(overrides.over(read(path))).vm(UUID, "web1").profile == "mail"
    policy = build(overrides.over(file))
    assert policy.vm(UUID, "web1").profile == "web"
    assert "unknown profile 'mail'" in policy.refused[f"{VM}/profile"]


LINE = read(None)
KEYS = st.sampled_from(
    ["policy", "vm", UUID, "watch", "max_s", "exempt", "limits", "vif-pps", "syn", "rules", "x", "name", ""]
)


@given(
    st.dictionaries(st.lists(KEYS, min_size=1, max_size=6).map("/".join), st.binary(max_size=30), max_size=4)
)
def test_whatever_the_nodes_hold_there_is_a_policy_and_each_is_held_or_refused(
    nodes: dict[str, bytes],
) -> None:
    overrides = Overrides()
    said = {
        f"/tool/xenwarden/{path}": raw
        for path, raw in nodes.items()
        if path.split("/")[0] in ("policy", "vm")
    }
    overrides.take(said)
    policy = build(overrides.over(LINE))
    assert overrides.held.keys() | policy.refused.keys() == {path for path, raw in said.items() if raw}
    assert not overrides.held.keys() & policy.refused.keys()
