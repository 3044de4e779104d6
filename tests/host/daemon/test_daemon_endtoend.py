# SPDX-License-Identifier: LGPL-2.1-or-later
"""The whole daemon on fakes: an attack is limited, judged, contained and released; nothing is left."""

from __future__ import annotations

import grp
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from daemon_world import Guest, World

from xenwarden_channel import messages, paths
from xenwarden_host.control.peers import Peer
from xenwarden_host.daemon import ledger, tracker
from xenwarden_host.records import PacketClass

if TYPE_CHECKING:
    from collections.abc import Iterator

QUIET = {"tx_pps": 50.0, "rx_pps": 50.0, "tx_syn_pps": 2.0, "rx_syn_pps": 2.0, "cpu_pct": 5.0}
RATE = "62500,50000"  # 10 Mbit/s, set by an admin before


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def start_three(world: World) -> tuple[Guest, Guest, Guest]:
    mallory, victim = world.start("mallory", cap=80, rate=RATE), world.start("victim")
    bystander = world.start("bystander")
    for guest in (mallory, victim, bystander):
        guest.signals.update(QUIET)
    world.run(seconds=20)
    return mallory, victim, bystander


def flood(mallory: Guest, victim: Guest) -> None:
    mallory.signals.update(tx_pps=5000, tx_syn_pps=5000, rx_synack_pps=10)
    mallory.vif.update(rx_packets=5000, rx_bytes=300_000)
    victim.signals.update(rx_pps=5000, rx_syn_pps=5000, tx_synack_pps=10)
    victim.vif.update(tx_packets=5000, tx_bytes=300_000)


def calm(*guests: Guest) -> None:
    for guest in guests:
        guest.signals.clear()
        guest.signals.update(QUIET)
        guest.vif.clear()


def police(world: World, guest: Guest) -> dict[PacketClass, int]:
    return world.vifs.vifs[guest.domid][0].police


def as_found(world: World, guest: Guest) -> bool:
    """Tell whether mallory's vif and scheduler are exactly as before the daemon knew of it."""
    vif = world.vifs.vifs[guest.domid][0]
    params = world.hypervisor.sched_params(guest.domid)
    return (vif.rate, vif.police, params.cap, params.weight) == (RATE, {}, 80, 256)


def test_flood_is_limited_judged_contained_and_released(world: World) -> None:
    mallory, victim, bystander = start_three(world)
    assert {vm["level"] for vm in world.xenwarden("list")["vms"]} == {1}
    began_s = world.clock.monotonic()
    flood(mallory, victim)

    world.run(seconds=10)
    provisional = police(world, mallory)[PacketClass.SYN]
    assert 0 < provisional < 5000

    world.run(seconds=20)
    shown = world.show(mallory)
    assert (shown["state"], shown["verdict"], shown["level"]) == ("contained", "attacker", 2)
    assert shown["levels"][0]["level"] == 2
    assert began_s < shown["levels"][0]["t_mono_s"] <= began_s + 10
    assert shown["limits"][0]["kind"] == "vif-pps/syn"
    assert shown["limits"][0]["t_mono_s"] <= began_s + 10
    assert shown["verdict_t_mono_s"] <= began_s + 30
    assert shown["released_t_mono_s"] is None
    assert any(item["signal"] == "tx_syn_pps" for item in shown["evidence"])
    assert police(world, mallory)[PacketClass.SYN] <= provisional
    assert mallory.down(paths.DOWN_STATUS) == {"state": "contained", "limits": "vif-pps/syn"}

    assert (world.show(victim)["verdict"], world.show(victim)["limits"]) == ("victim", [])
    spared = world.show(bystander)
    assert (spared["level"], spared["verdict"], spared["levels"], spared["limits"]) == (1, None, [], [])

    calm(mallory, victim)
    world.run(seconds=120)
    shown = world.show(mallory)
    assert (shown["state"], shown["verdict"], shown["level"], shown["limits_now"]) == (
        "normal",
        "attacker",
        1,
        [],
    )
    assert shown["released_t_mono_s"] > shown["verdict_t_mono_s"]
    assert as_found(world, mallory)


def test_attacker_without_an_agent_is_convicted_by_what_its_limit_drops(world: World) -> None:
    mallory, victim = (
        world.start("mallory", agent=False, cap=80, rate=RATE),
        world.start("victim", agent=False),
    )
    world.run(seconds=30)
    mallory.vif.update(rx_packets=5000, rx_bytes=300_000)
    victim.vif.update(tx_packets=5000, tx_bytes=300_000)
    world.run(seconds=30)
    shown = world.show(mallory)
    assert (shown["verdict"], shown["agent"]) == ("attacker", None)
    assert shown["signals"]["vif_police_drop_pps"]["value"] > 1000
    assert world.show(victim)["verdict"] != "attacker"
    calm(mallory, victim)
    world.run(seconds=120)
    assert as_found(world, mallory)


def test_kernel_that_tells_no_drops_is_counted_and_survived(world: World) -> None:
    mallory, victim, _bystander = start_three(world)
    world.vifs.refuse.add("police_drops")
    flood(mallory, victim)
    world.run(seconds=30)
    assert world.show(mallory)["verdict"] == "attacker"
    assert world.xenwarden("list")["daemon"]["errors"]["police-drops"] > 0


def test_limit_comes_with_the_report_and_does_not_wait_for_the_timer(world: World) -> None:
    mallory, victim, _bystander = start_three(world)
    ticks = world.service.warden.ticks
    flood(mallory, victim)
    mallory.step(world.clock.monotonic())
    world.turn()
    assert world.service.warden.ticks == ticks + 1
    assert police(world, mallory)


def test_operator_releases_by_name_id_or_uuid(world: World) -> None:
    mallory, victim, _bystander = start_three(world)
    flood(mallory, victim)
    world.run(seconds=30)
    for who in ("mallory", str(mallory.domid), mallory.uuid.upper()):
        (told,) = world.xenwarden("-N", "release", who)
        assert (told["name"], told["lifted"]) == ("mallory", ["vif-pps/syn"])
    assert police(world, mallory)
    status, out, err = world.command("release", "mallory")
    assert (status, out, err) == (0, "", "")
    assert as_found(world, mallory)
    assert world.xenwarden("limits") == []
    world.run(seconds=5)
    assert as_found(world, mallory), "released by an operator and limited again at once"
    events = world.xenwarden("why", "mallory")["events"]
    assert any(event["event"] == "release" and event["who"] == "operator:root" for event in events)


def test_wrong_domain_is_a_sentence(world: World) -> None:
    status, out, err = world.command("show", "nobody")
    assert (status, out) == (1, "")
    assert err == "xenwarden: no VM 'nobody' runs here\n  see: xenwarden list\n"


def test_two_vms_of_one_name_are_told_apart_by_id(world: World) -> None:
    world.start("twin")
    second = world.start("twin")
    world.run(seconds=2)
    status, _out, err = world.command("show", "twin")
    assert status == 1
    assert "1, 2" in err
    assert world.xenwarden("show", "2")["uuid"] == second.uuid


# --- the documented shapes ---------------------------------------------------------------------------


SCHEMA = json.loads((Path(__file__).resolve().parents[3] / "dom0/schema/xenwarden.json").read_text())


def check(verb: str, value: Any) -> None:
    """Check a value against the schema that ships, and that nothing is in it that the schema lacks."""

    def closed(schema: Any) -> Any:
        if isinstance(schema, list):
            return [closed(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        more = {"additionalProperties": False} if "properties" in schema else {}
        return more | {key: closed(item) for key, item in schema.items()}

    validator = jsonschema.Draft202012Validator(closed(SCHEMA["$defs"][verb]))
    validator.check_schema(SCHEMA)
    validator.validate(value)


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("list", ["list"]),
        ("top", ["top", "-n", "1"]),
        ("show", ["show", "mallory"]),
        ("why", ["why", "mallory"]),
        ("limits", ["limits"]),
        ("limit", ["limit", "mallory", "--memory", "128m"]),
        ("capacity", ["capacity"]),
        ("release", ["-N", "release", "--all"]),
        ("level", ["level", "mallory", "2"]),
        ("kill-switch", ["kill-switch", "status"]),
        ("version", ["version"]),
        ("policy", ["policy", "show"]),
        ("policy", ["policy", "show", "mallory"]),
        ("history", ["history", "mallory"]),
        ("forget", ["-N", "forget", "bystander"]),
        ("report", ["report", "mallory", "--since", "2020-01-01"]),
    ],
)
def test_json_is_exactly_as_its_schema_says(world: World, verb: str, words: list[str]) -> None:
    mallory, victim, _bystander = start_three(world)
    flood(mallory, victim)
    world.run(seconds=30)
    answer = world.xenwarden(*words)
    assert answer
    check(verb, answer)


def test_doctor_in_json_is_as_its_schema_says_and_sees_the_daemon(world: World) -> None:
    start_three(world)
    _status, out, _err = world.command("--json", "doctor")
    answer = json.loads(out)
    check("doctor", answer)
    told = [item["text"] for item in answer["checks"] if item["check"] == "daemon"]
    assert any("answers" in text for text in told)
    assert "agents absent: Domain-0" in told


def test_history_tells_what_was_learnt_and_forget_begins_anew(world: World) -> None:
    mallory, victim, _bystander = start_three(world)
    world.run(seconds=60)
    before = world.xenwarden("history", "victim")
    assert before["signals"]["tx_pps"]["observations"] > 5
    assert before["known_s"] > 60
    flood(mallory, victim)
    world.run(seconds=30)
    status, _out, err = world.command("forget", "mallory")
    assert status == 1
    assert "xenwarden release mallory" in err
    calm(mallory, victim)
    world.xenwarden("release", "mallory")
    world.run(seconds=1)
    assert world.xenwarden("-N", "forget", mallory.uuid)["forgotten"] == ["history", "verdict", "state"]
    assert world.show(mallory)["verdict"] == "attacker"
    world.xenwarden("forget", mallory.uuid)
    world.run(seconds=1)
    shown = world.show(mallory)
    assert (shown["state"], shown["verdict"], shown["why"]) == ("normal", None, "")
    assert world.xenwarden("history", "mallory")["known_s"] < 5
    assert any("forgotten by" in line for line in world.command("events", "mallory")[1].splitlines())


def test_forgotten_vm_keeps_its_profile_and_one_that_is_gone_is_named_by_uuid(tmp_path: Path) -> None:
    policy = "profiles: {tiny: {upper: {tx_pps: 10}}}\nvms: [{name: web, profile: tiny}]\n"
    with World(tmp_path, policy=policy) as world:
        web = world.start("web")
        web.signals.update(QUIET, tx_pps=3.0)
        world.run(seconds=20)
        world.xenwarden("forget", web.uuid)
        world.run(seconds=20)
        assert world.xenwarden("history", "web")["profile"] == "tiny"
        world.hypervisor.destroy(web.domid)
        world.store.remove_domain(web.domid)
        del world.guests["web"]
        world.run(seconds=5)
        gone = world.xenwarden("history", web.uuid)
        assert (gone["name"], gone["profile"]) == (None, "tiny")
        assert world.xenwarden("forget", web.uuid)["forgotten"] == ["history"]
        status, _out, err = world.command("history", web.uuid)
        assert status == 1
        assert "no VM" in err


def test_events_are_one_object_on_each_line(world: World) -> None:
    mallory, victim, _bystander = start_three(world)
    flood(mallory, victim)
    world.run(seconds=30)
    status, out, _err = world.command("--json", "events", "-n", "100")
    assert status == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["id"] for event in events] == sorted(event["id"] for event in events)
    for event in events:
        check("events", event)
    told = [event["event"] for event in events if event["name"] == "mallory"]
    for kind in ("level", "state", "limit-set", "ask", "answer", "verdict"):
        assert kind in told


# --- loss and return -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "crash"])
def test_restart_in_the_middle_keeps_limits_verdict_and_originals(world: World, how: str) -> None:
    mallory, victim, _bystander = start_three(world)
    flood(mallory, victim)
    world.run(seconds=30)
    before, limit = world.show(mallory), police(world, mallory)
    world.end() if how == "stop" else world.crash()
    assert police(world, mallory) == limit
    world.begin()
    world.run(seconds=2)
    after = world.show(mallory)
    assert police(world, mallory) == limit
    assert (after["state"], after["verdict"]) == ("contained", "attacker")
    assert after["evidence"] == before["evidence"]
    assert [item["why"] for item in after["limits_now"]] == [item["why"] for item in before["limits_now"]]
    assert after["verdict_t_mono_s"] == pytest.approx(before["verdict_t_mono_s"])
    calm(mallory, victim)
    world.run(seconds=120)
    assert as_found(world, mallory)


def test_crash_before_the_decision_was_kept_leaves_no_limit_behind(world: World) -> None:
    mallory, victim, _bystander = start_three(world)
    world.service.warden.save()
    kept = world.service.warden.database.load("hsem")
    flood(mallory, victim)
    world.run(seconds=10)
    assert police(world, mallory)
    world.service.warden.database.save("hsem", kept, 0.0)
    world.crash()
    calm(mallory, victim)
    world.begin()
    world.run(seconds=5)
    assert as_found(world, mallory)


def test_clean_stop_releases_where_policy_says_so(tmp_path: Path) -> None:
    with World(tmp_path, policy="fail_safe: release\n") as world:
        mallory, victim, _bystander = start_three(world)
        flood(mallory, victim)
        world.run(seconds=30)
        assert police(world, mallory)
        world.end()
        assert as_found(world, mallory)
        world.begin()


def test_lost_xenstore_keeps_limits_and_calls_nobody_silent(world: World) -> None:
    mallory, victim, bystander = start_three(world)
    flood(mallory, victim)
    world.run(seconds=30)
    limit = police(world, mallory)
    world.store.lose()
    agents = {guest.name: guest.stop_agent() for guest in (mallory, victim, bystander)}  # theirs is lost too
    world.run(seconds=60)
    assert police(world, mallory) == limit
    listed = world.xenwarden("list")
    assert listed["daemon"]["store"] == "lost"
    assert any("xenstored" in notice for notice in listed["notices"])
    world.store.come_back()
    world.clock.advance(1)
    world.turn()
    listed = world.xenwarden("list")
    assert listed["daemon"]["store"] == "connected"
    assert {vm["agent"] for vm in listed["vms"] if vm["domid"]} == {"alive"}
    for guest in (mallory, victim, bystander):
        guest.connection = agents[guest.name]
    world.run(seconds=10)
    assert world.show(bystander)["levels"] == []
    assert world.show(mallory)["state"] == "contained"


def test_xenstore_that_forgot_everything_is_filled_again(world: World) -> None:
    mallory, _victim, _bystander = start_three(world)
    world.store.lose()
    world.store.tree.remove(0, f"/local/domain/{mallory.domid}/xenwarden")
    world.store.come_back()
    world.run(seconds=2)
    assert mallory.down(paths.DOWN_ORDER)["level"] == "1"
    assert world.store.permissions(f"/local/domain/{mallory.domid}/xenwarden") == ["n0", f"r{mallory.domid}"]


def test_paused_guest_is_not_silent(world: World) -> None:
    guest = world.start("guest")
    guest.signals.update(QUIET)
    world.run(seconds=10)
    connection = guest.stop_agent()
    world.hypervisor.change(guest.domid, paused=True)
    world.run(seconds=60)
    world.hypervisor.change(guest.domid, paused=False)
    world.run(seconds=1)
    assert world.show(guest)["agent"]["state"] == "alive"
    guest.connection = connection


def test_daemon_that_was_starved_calls_nobody_silent(world: World) -> None:
    guest = world.start("guest")
    guest.signals.update(QUIET)
    world.run(seconds=10)
    world.clock.advance(300)
    world.turn()
    assert world.show(guest)["agent"]["state"] == "alive"


def test_failing_libxl_is_survived_counted_and_changes_nothing(world: World) -> None:
    mallory, victim, _bystander = start_three(world)
    flood(mallory, victim)
    world.run(seconds=30)
    limit = police(world, mallory)
    world.hypervisor.refuse.add("list_domains")
    world.run(seconds=10)
    assert police(world, mallory) == limit
    assert world.xenwarden("list")["daemon"]["errors"]["domains"] > 0
    world.hypervisor.refuse.clear()
    world.run(seconds=5)
    assert world.show(mallory)["state"] == "contained"


def test_migration_takes_verdict_and_limits_along(world: World) -> None:
    mallory, victim, _bystander = start_three(world)
    flood(mallory, victim)
    world.run(seconds=30)
    limit = dict(police(world, mallory))
    world.migrate(mallory)
    world.run(seconds=3)
    assert police(world, mallory) == limit
    assert world.show(mallory)["domid"] == mallory.domid
    assert world.show(mallory)["verdict"] == "attacker"
    assert mallory.down(paths.DOWN_STATUS)["state"] == "contained"


def test_domains_that_come_and_go_leave_nothing(world: World) -> None:
    world.run(seconds=1)
    nodes, watches = world.nodes(), len(world.store._events.watches())
    for number in range(50):
        guest = world.start(f"short-{number}")
        world.run(seconds=1)
        world.hypervisor.destroy(guest.domid)
        world.store.remove_domain(guest.domid)
        world.guests.clear()
        world.run(seconds=1)
    assert len(world.store._events.watches()) == watches
    assert world.nodes() == nodes
    assert list(world.service.warden.tracker.guests) == [0]


def test_what_is_kept_of_vms_that_are_gone_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "_KNOWN_MAX", 5)
    monkeypatch.setattr(ledger, "_MAX_VMS", 5)
    stays = world.start("stays")
    world.run(seconds=2)
    for _ in range(12):
        guest = world.start("short")
        world.run(seconds=1)
        world.hypervisor.destroy(guest.domid)
        world.store.remove_domain(guest.domid)
        del world.guests["short"]
    warden = world.service.warden
    warden.save()
    assert len(warden.history.uuids()) <= 7
    assert stays.uuid in warden.history.uuids()
    assert len(warden.ledger._records) <= 5
    assert stays.uuid in warden.ledger._records


def test_home_that_a_dead_daemon_left_of_a_dead_domain_is_removed(world: World) -> None:
    world.crash()
    world.store.write("/local/domain/77/xenwarden/order", b"late")
    world.store.write("/local/domain/78/xenwarden/order", b"late")
    world.store.write("/local/domain/78/name", b"somebody else's node")
    world.begin()
    world.run(seconds=1)
    homes = world.store.directory("/local/domain")
    assert "77" not in homes
    assert world.store.directory("/local/domain/78") == ["name"]


# --- switches ------------------------------------------------------------------------------------------


def test_kill_switch_releases_within_a_tick_and_holds(world: World) -> None:
    mallory, victim, _bystander = start_three(world)
    flood(mallory, victim)
    world.run(seconds=2)
    assert police(world, mallory)
    assert world.xenwarden("-N", "kill-switch", "on")["on"] is True
    assert world.xenwarden("kill-switch", "status")["on"] is False
    assert world.xenwarden("kill-switch", "on")["on"] is True
    world.run(seconds=1)
    assert as_found(world, mallory)
    world.run(seconds=30)
    assert as_found(world, mallory)
    assert world.show(mallory)["verdict"] == "attacker", "deciding goes on"
    assert "would be limited to" in world.command("events", "mallory")[1]
    assert any("kill switch" in notice for notice in world.xenwarden("list")["notices"])
    assert world.xenwarden("kill-switch", "off")["on"] is False
    world.run(seconds=1)
    assert police(world, mallory)


def test_admins_own_kill_file_is_no_commands_to_remove(world: World) -> None:
    file = world.directory / "etc-kill"
    file.touch()
    world.run(seconds=1)
    status, _out, err = world.command("kill-switch", "off")
    assert status == 1
    assert str(file) in err


def test_dry_run_decides_and_changes_nothing(tmp_path: Path) -> None:
    with World(tmp_path, dry_run=True) as world:
        mallory, victim = world.start("mallory", cap=80, rate=RATE), world.start("victim")
        nodes = world.nodes()
        for _ in range(30):
            mallory.signals.update(QUIET, tx_pps=5000, tx_syn_pps=5000)
            mallory.report(level=2, why="tx_syn_pps", over="tx_syn_pps", interval=1.0)
            world.run(seconds=1)
        assert world.xenwarden("list")["daemon"]["dry_run"] is True
        assert world.show(mallory)["verdict"] == "attacker"
        assert as_found(world, mallory)
        assert world.hypervisor.calls == []
        assert victim.down(paths.DOWN_ORDER) == {}
        assert world.nodes() - nodes <= 4, "only what the guests wrote themselves"
        status, _out, err = world.command("release", "mallory")
        assert (status, "dry-run" in err) == (1, True)
        kinds = {event["event"] for event in world.xenwarden("why", "mallory")["events"]}
        assert "limit-withheld" in kinds or "verdict" in kinds


def test_policy_that_is_wrong_is_refused_and_the_old_one_stays(world: World) -> None:
    world.config.write_text("tick_s: 2\n")
    world.service.reload()
    assert world.xenwarden("policy", "show")["policy"]["tick_s"] == 2
    world.config.write_text("tick_s: often\n")
    world.service.reload()
    assert world.xenwarden("policy", "show")["policy"]["tick_s"] == 2
    status, out, _err = world.command("events")
    assert status == 0
    assert f"{world.config}:1:" in out


def test_roles_are_those_of_the_policy(world: World) -> None:
    world.run(seconds=1)
    world.peer = Peer(1, 1000, frozenset({1000}))
    status, _out, err = world.command("list")
    assert status == 1
    assert "role" in err


def test_viewer_may_look_operator_release_admin_all(tmp_path: Path) -> None:
    first, second, third = [group for group in grp.getgrall() if group.gr_gid][:3]
    policy = f"roles: {{viewer: [{first.gr_name}], operator: [{second.gr_name}], admin: [{third.gr_name}]}}\n"
    with World(tmp_path, policy=policy) as world:
        world.start("web")
        world.run(seconds=1)
        allowed = {}
        for group in (first, second, third):
            world.peer = Peer(1, 1000, frozenset({group.gr_gid}))
            limit = "limit web --cap 50"
            verbs = ("list", "kill-switch status", "limit web", limit, "release web", "kill-switch on")
            allowed[group.gr_name] = [verb for verb in verbs if world.command(*verb.split())[0] == 0]
        look = ["list", "kill-switch status", "limit web"]
        assert allowed == {
            first.gr_name: look,
            second.gr_name: [*look, limit, "release web"],
            third.gr_name: [*look, limit, "release web", "kill-switch on"],
        }


# --- hostile guests ------------------------------------------------------------------------------------

HOSTILE = [
    b"",
    b"\x00\xff" * 900,
    b"xw1 report seq=1 " + b"a" * 1900,
    b"xw1 report seq=" + b"9" * 400 + b" boot=00000001 level=1 interval=5",
    b"xw1 report seq=1 boot=00000001 level=1 interval=5 tx_pps=1e999",
    b"xw1 report seq=1 boot=00000001 level=1 interval=5 tx_pps=-5",
    b"xw1 report seq=1 boot=00000001 level=1 interval=nan",
    b"xw9 report seq=1",
    b"xw1 order seq=1 level=1",
    b"xw1 report seq=1 boot=00000001 level=1 level=2 interval=5",
    "xw1 report seq=1 boot=00000001 level=1 interval=5 why=\u202e".encode(),
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_value_marks_its_guest_and_nobody_else(
    world: World, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    evil, honest = world.start("evil"), world.start("honest")
    connection = evil.stop_agent()
    honest.signals.update(QUIET)
    world.run(seconds=10)
    for number in range(100):
        for node in paths.UP:
            connection.write(node, value + bytes([48 + number % 10]) if value else value)
        world.run(seconds=0.5)
    listed = {vm["name"]: vm for vm in world.xenwarden("list")["vms"]}
    assert listed["evil"]["agent"] in ("garbled", "version", "alive", "silent")
    assert listed["honest"]["agent"] == "alive"
    assert listed["honest"]["level"] == 1
    assert not world.xenwarden("list")["daemon"]["errors"]
    told = [message for message in caplog.messages if "guest-refused" in message]
    assert len(told) <= 2, "once a minute at most"


def test_garbled_agent_is_told_in_list_and_recovers(world: World) -> None:
    guest = world.start("guest")
    guest.signals.update(QUIET)
    world.run(seconds=10)
    connection = guest.stop_agent()
    connection.write(paths.UP_REPORT, b"nonsense")
    world.run(seconds=1)
    assert world.show(guest)["agent"]["state"] == "garbled"
    guest.connection = connection
    world.run(seconds=10)
    assert world.show(guest)["agent"]["state"] == "alive"
    assert world.show(guest)["agent"]["refused"] == 1


def test_guest_whose_first_word_is_garbled_cannot_hide_from_show(world: World, tmp_path: Path) -> None:
    """Nothing of a report is known of it: the commands that admins look with must not fail on that."""
    world.start("mallory").stop_agent().write(paths.UP_REPORT, b"rubbish")
    world.run(seconds=2)
    for words in (["show", "mallory"], ["-v", "show", "mallory"], ["why", "mallory"]):
        assert world.command(*words)[0] == 0
    assert "garbled, no report was understood yet" in world.command("show", "mallory")[1]
    assert world.command("report", "mallory", "-o", str(tmp_path / "page.html"))[0] == 0


def test_answer_to_a_question_never_asked_is_none(world: World) -> None:
    guest = world.start("guest")
    guest.signals.update(QUIET)
    world.run(seconds=5)
    fields: dict[str, str | float] = {"id": "4711", "load_pct": 99}
    guest.write(paths.UP_ANSWER, messages.encode("answer", 1, fields))
    world.run(seconds=5)
    assert "answered" not in world.command("events")[1]


def test_thousands_of_nodes_below_data_cost_one_read(world: World) -> None:
    guest = world.start("guest")
    guest.signals.update(QUIET)
    world.run(seconds=5)
    for number in range(900):
        guest.write(f"data/xenwarden/n{number}", b"x")
    world.run(seconds=10)
    assert world.show(guest)["agent"]["state"] == "alive"


def test_guest_that_toggles_its_level_does_not_drive_the_ticks(world: World) -> None:
    guest = world.start("guest")
    world.run(seconds=2)
    before = world.service.warden.ticks
    for number in range(200):
        guest.level = 1 + number % 2
        guest.report(level=guest.level, why="tx_pps", over="", interval=1.0)
        world.clock.advance(0.11)
        world.turn()
    assert world.service.warden.ticks - before <= 200 * 0.11 + 4


def test_silent_agent_is_named_after_its_time(world: World) -> None:
    guest = world.start("guest")
    guest.signals.update(QUIET)
    world.run(seconds=10)
    guest.stop_agent()
    world.run(seconds=10)
    assert world.show(guest)["agent"]["state"] == "alive"
    world.run(seconds=10)
    assert world.show(guest)["agent"]["state"] == "silent"


def test_one_guests_bug_stops_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mallory, victim, _bystander = start_three(world)
    engine = world.service.warden.engine
    want = engine.want

    def failing(uuid: str, *arguments: Any, **more: Any) -> None:
        if uuid == victim.uuid:
            raise RuntimeError("a bug")
        want(uuid, *arguments, **more)

    monkeypatch.setattr(engine, "want", failing)
    flood(victim, mallory)
    flood(mallory, victim)
    world.run(seconds=10)
    assert police(world, mallory)


def test_damaged_database_is_told_and_limits_still_work(world: World) -> None:
    world.crash()
    for file in world.state_dir.iterdir():
        file.unlink()
    (world.state_dir / "state.db").write_bytes(b"garbage" * 1000)
    world.begin()
    mallory, victim, _bystander = start_three(world)
    status, out, err = world.command("list")
    assert (status, "mallory" in out) == (0, True)
    assert "state.db.damaged-1" in err
    flood(mallory, victim)
    world.run(seconds=10)
    assert police(world, mallory)


def test_full_disk_is_survived_and_told(world: World) -> None:
    mallory, victim, _bystander = start_three(world)
    database = world.service.warden.database
    pages = database._connection.execute("PRAGMA page_count").fetchone()[0]
    database._connection.execute(f"PRAGMA max_page_count = {pages}")
    flood(mallory, victim)
    world.run(seconds=40)
    calm(mallory, victim)
    world.run(seconds=120)
    flood(mallory, victim)
    world.run(seconds=30)
    assert world.show(mallory)["verdict"] == "attacker"
    assert police(world, mallory)
    assert world.service.warden.audit.lost > 0
    assert any("could not be written" in notice for notice in world.xenwarden("list")["notices"])


def test_release_all_leaves_alone_who_has_nothing_to_be_released_from(world: World) -> None:
    mallory, victim, bystander = start_three(world)
    flood(mallory, victim)
    world.run(seconds=30)
    told = {vm["name"]: vm["lifted"] for vm in world.xenwarden("release", "--all")}
    assert told == {"mallory": ["vif-pps/syn"], "victim": []}
    assert as_found(world, mallory)
    calm(mallory)
    flood(bystander, victim)
    world.run(seconds=10)
    assert police(world, bystander)


def test_guest_that_migrates_here_has_two_domains_and_one_line(world: World) -> None:
    guest = world.start("guest")
    guest.signals.update(QUIET)
    world.run(seconds=10)
    arriving = world.hypervisor.add(guest.uuid, "guest--incoming", cpu_time_s=0)
    world.store.add_domain(arriving)
    world.run(seconds=5)
    (line,) = [vm for vm in world.xenwarden("list")["vms"] if vm["uuid"] == guest.uuid]
    assert (line["domid"], line["agent"]) == (guest.domid, "alive")
    written = world.store.read(f"/local/domain/{arriving}/xenwarden/history")
    world.run(seconds=20)
    assert world.store.read(f"/local/domain/{arriving}/xenwarden/history") == written, "written over and over"


def test_down_nodes_are_written_only_when_they_change(world: World) -> None:
    guest = world.start("guest")
    guest.signals.update(QUIET)
    world.run(seconds=10)
    assert guest.connection is not None
    guest.connection.watch(paths.DOWN_DIR, "down")
    guest.connection.events()
    world.run(seconds=30)
    assert guest.connection.events() == []


@pytest.mark.parametrize("away_s", [5, 90])
def test_limited_vm_that_reboots_is_limited_again_until_it_is_forgotten(
    tmp_path: Path, away_s: float
) -> None:
    with World(tmp_path, policy="release: {repeat_s: 20}\n") as world:
        mallory, victim, _bystander = start_three(world)
        flood(mallory, victim)
        world.run(seconds=30)
        limit = dict(police(world, mallory))
        world.hypervisor.destroy(mallory.domid)
        world.store.remove_domain(mallory.domid)
        mallory.stop_agent()
        calm(mallory, victim)
        world.run(seconds=away_s)
        assert bool(world.xenwarden("limits")) == (away_s < 20)
        mallory.domid = world.hypervisor.add(mallory.uuid, "mallory", cap=80)
        world.store.add_domain(mallory.domid)
        world.vifs.add(mallory.domid, rate=RATE)
        world.run(seconds=5)
        if away_s < 20:
            assert police(world, mallory) == limit
            assert world.show(mallory)["state"] == "contained"
        else:
            assert as_found(world, mallory)
            assert world.show(mallory)["state"] == "normal"
            assert world.xenwarden("limits") == []
