# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden top`: as text, as what is shown for keys, and as a process on a terminal of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from daemon_world import World
from hypothesis import given
from hypothesis import strategies as st

from picturing.terminal import Terminal
from xenwarden_host.cli.output import columns
from xenwarden_host.cli.topcolumns import NAMES, arrange
from xenwarden_host.cli.topdetail import detail_lines, sparkline
from xenwarden_host.cli.topview import View
from xenwarden_host.records import LimitKey, LimitKind

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]


def vm(number: int, name: str, **told: Any) -> dict[str, Any]:
    """What `top` tells of a VM that does nothing, but for what is given."""
    return {
        "name": name, "domid": number, "uuid": str(UUID(int=number)), "type": "pv", "state": "normal",
        "level": 1, "verdict": None, "agent": "alive", "limits": [], "vcpus": 1, "cpu_pct": 1.0, "cap": 0,
        "tx_bps": 0.0, "rx_bps": 0.0, "rate_bps": None, "pressure_pct": None, "event": None, **told,
    }  # fmt: skip


def mallory() -> dict[str, Any]:
    event = {"unix_s": 1e9, "text": "mallory is contained: it floods\x1b[2J"}
    return vm(
        7, "mallory", state="contained", level=2, verdict="attacker", limits=["vif-rate"],
        rate_bps=10_000_000, tx_bps=12_345_678.0, event=event,
    )  # fmt: skip


def answer(*vms: dict[str, Any]) -> dict[str, Any]:
    return {"unix_s": 1e9, "host": "dom0", "cpus": 4, "notices": [], "vms": list(vms)}


def screen(view: View, width: int = 80, height: int = 24) -> list[str]:
    return ["".join(text for text, _style in line) for line in view.lines(width, height)]


def keys(view: View, *pressed: str) -> list[Any]:
    return [request for key in pressed if (request := view.key(key)) is not None]


def words(text: str) -> list[str]:
    return [*text, "enter"]


# --- the list -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("count", [1, 50, 300])
def test_list_fits_and_has_what_is_limited_on_top(width: int, count: int) -> None:
    view = View()
    quiet = [vm(n, f"web-{n}-日本語" * (1 + n % 9)) for n in range(10, 10 + count)]
    view.take(answer(*quiet, mallory()))
    lines = screen(view, width)
    assert len(lines) == 24
    assert max(map(columns, lines)) <= width
    assert f"{count + 1} VMs  1 contained" in lines[0]
    assert lines[2].split()[:4] == ["Name", "ID", "L", "State"]
    assert lines[3].split()[:9] == ["mallory", "7", "2", "contained", "1", "-", "12.3M", "0", "10M"]
    assert ("it floods?[2J" in lines[3]) == (width == 200)
    assert "it floods?[2J" in lines[-2]


def test_every_column_sorts_either_way_and_nulls_do_no_harm() -> None:
    vms = [vm(1, "b", cpu_pct=None, tx_bps=None, cap=None), vm(2, "a", cpu_pct=50.0, tx_bps=9.0), mallory()]
    order = {sort: "".join(row["name"][0] for row in arrange(vms, sort)) for sort in NAMES}
    assert order == {
        "name": "abm", "id": "bam", "level": "mba", "state": "mab", "cpu": "amb", "cap": "bam", "out": "mab",
        "in": "bam", "rate": "mba", "pressure": "bam", "event": "mba",
    }  # fmt: skip
    for sort in NAMES:
        assert sorted(row["name"] for row in arrange(vms, sort, reverse=True)) == ["a", "b", "mallory"]
    assert [row["name"] for row in arrange(vms, "name", "ATTACK")] == ["mallory"]


def test_selection_stays_with_its_vm_and_filter_takes_it_along() -> None:
    view = View(sort="name")
    view.take(answer(vm(1, "a"), vm(2, "b"), vm(3, "c")))
    keys(view, "down")
    view.take(answer(vm(1, "z"), vm(2, "b"), vm(3, "c")))
    selected = [line for line in view.lines(80, 24) if line and line[0][1] == "reverse" and "b" in line[0][0]]
    assert len(selected) == 1
    keys(view, "/", *words("c"))
    assert "1 of 3 VMs" in screen(view)[0]
    assert keys(view, "r", "y") == [("release", {"vm": str(UUID(int=3))})]
    keys(view, "/", "backspace", *words("nobody"))
    assert any("no VM has 'nobody'" in line for line in screen(view))


def test_nothing_is_done_without_a_yes_and_it_is_done_to_the_vm_that_was_chosen() -> None:
    view = View()
    view.take(answer(mallory(), vm(8, "web")))
    assert keys(view, "r", "n") == []
    assert screen(view)[-2] == "nothing was done"
    assert keys(view, "l", *words("--cap lots")) == []
    assert "no whole number" in screen(view)[-2]
    assert keys(view, "l", *words("50")) == []
    assert "takes no" in screen(view)[-2]
    assert keys(view, "l", *"--cap 50 --for 10m") == []
    view.take(answer(vm(8, "web")))  # mallory is gone: the order must not become another's
    assert "limit mallory" in screen(view)[-2]
    keys(view, "enter")
    assert screen(view)[-2] == "Limit mallory by --cap 50 --for 10m? y/n "
    uuid = mallory()["uuid"]
    assert keys(view, "y") == [("limit", {"vm": uuid, "orders": {"cap": 50}, "for_s": 600.0})]
    view.fail("no VM runs here", refused=True)
    assert screen(view)[-2] == "no VM runs here"


def test_daemon_that_does_not_answer_is_told_and_the_last_answer_stays() -> None:
    view = View()
    view.fail("xenwardend is not running")
    assert "xenwardend is not running" in screen(view)[0]
    view.take(answer(mallory()))
    view.fail("xenwardend is not running")
    lines = screen(view)
    assert "xenwardend is not running" in lines[0]
    assert lines[3].startswith("mallory")


def test_sparkline_has_a_letter_for_each_step_and_a_gap_where_nothing_was_measured() -> None:
    points = [(0.0, 0.0), (0.3, 50.0), (0.99, 100.0), (1.0, 3.0)]
    assert sparkline(points, 4, 100.0, blocks=True) == "▁▅ █"
    assert sparkline(points, 4, 100.0, blocks=False) == "_= #"
    assert sparkline([(0.5, 0.0)], 2, 0.0, blocks=True) == " ▁"


@pytest.mark.parametrize(("seconds", "said"), [(60, "60 s"), (590, "10 min"), (5000, "10 min")])
def test_what_was_measured_fills_the_width_however_short_it_was(seconds: int, said: str) -> None:
    now_s = 1_800_000_000
    samples = [
        {"unix_s": now_s - n, "signals": {"tx_pps": 10.0 + n % 7}} for n in reversed(range(seconds + 1))
    ]
    signal = {"value": 10.0, "usual": 20.0, "unit": "1/s"}
    shown: dict[str, Any] = {
        "name": "a", "domid": 1, "type": "pv", "level": 1, "state": "normal", "verdict": None, "why": "",
        "limits_now": [], "signals": {"tx_pps": signal},
    }  # fmt: skip
    data = {"unix_s": now_s, "vm": shown, "samples": samples, "events": []}
    for width in (80, 200):
        lines = ["".join(text for text, _style in line) for line in detail_lines(data, width, blocks=True)]
        assert f"the last {said}," in "\n".join(lines)
        (line,) = [line for line in lines if line.startswith("tx_pps")]
        spark = line.removeprefix("tx_pps ").partition("    10 /")[0]
        assert " " not in spark
        assert len(spark) == min(width - len("tx_pps") - 21, (seconds + 1) * 9 // 10, 120)
        assert len(line) <= width


NAMED = [
    "up",
    "down",
    "pgup",
    "pgdn",
    "home",
    "end",
    "enter",
    "esc",
    "backspace",
    "y",
    "l",
    "r",
    "s",
    "?",
    "/",
    "R",
]


@given(
    pressed=st.lists(st.sampled_from(NAMED) | st.text(min_size=1, max_size=1), max_size=30),
    width=st.integers(1, 210),
    height=st.integers(1, 60),
)
def test_no_key_breaks_it_and_no_size_overflows(pressed: list[str], width: int, height: int) -> None:
    view = View()
    view.take(answer(mallory(), *(vm(n, f"web{n}") for n in range(10, 30))))
    for key in pressed:
        if key == "q":
            continue
        view.key(key)
        lines = screen(view, width, height)
        assert len(lines) <= height
        assert all(columns(line) <= width for line in lines)


# --- with the daemon ------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


def flood(world: World) -> None:
    """Have mallory contained."""
    world.start("quiet")
    attacker = world.start("mallory")
    world.run(seconds=20)
    attacker.signals.update({"tx_syn_pps": 4000.0, "tx_pps": 4100.0, "rx_pps": 5.0, "psi_cpu_pct": 12.0})
    attacker.vif.update(rx_packets=4100.0, rx_bytes=4100.0 * 60, tx_packets=5.0, tx_bytes=500.0)
    world.run(seconds=15)


def test_batch_is_text_sorted_and_filtered_as_often_as_was_asked(world: World) -> None:
    flood(world)
    status, out, err = world.command("top", "-b", "-n", "2", "-d", "0.2", "-f", "MALL")
    assert (status, err) == (0, "")
    tables = out.split("\n\n")
    assert len(tables) == 3
    header, *rows = tables[0].splitlines()
    assert header.split()[0] == "Name"
    assert [row.split()[0] for row in rows] == ["mallory"]
    assert rows[0].split()[3] == "contained"
    assert rows[0].split()[6] == "1.97M"
    assert "mallory limited to" in rows[0]
    (told,) = world.xenwarden("top", "-n", "1", "-f", "attacker")["vms"]
    assert (told["name"], told["tx_bps"], told["pressure_pct"]) == ("mallory", 1_968_000.0, 12.0)
    assert world.xenwarden("limit", "mallory", "--vif-rate", "10Mb/s", "--cap", "25")
    world.run(seconds=1)
    (told,) = world.xenwarden("top", "-n", "1", "-f", "attacker")["vms"]
    assert (told["rate_bps"], told["cap"]) == (10_000_000, 25)
    assert "mallory" in told["event"]["text"]
    names = [row["name"] for row in world.xenwarden("top", "-n", "1", "-s", "name")["vms"]]
    assert names == ["Domain-0", "mallory", "quiet"]


def test_last_event_outlives_the_daemon(world: World) -> None:
    flood(world)
    world.end()
    world.begin()
    world.run(seconds=1)
    (told,) = world.xenwarden("top", "-n", "1", "-f", "mallory")["vms"]
    assert "mallory" in told["event"]["text"]


def test_top_without_a_terminal_says_what_to_do(world: World) -> None:
    status, out, err = world.command("top")
    assert (status, out) == (1, "")
    assert err == "xenwarden: top needs a terminal\n  for a file or a pipe use: xenwarden top -b\n"


def pilot(world: World, *options: str, term: str = "xterm") -> Terminal:
    """Run `xenwarden top` on a terminal of its own; the world goes on while one waits for what it shows."""
    code = "import sys; from xenwarden_host.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return Terminal(
        [sys.executable, "-c", code, "--socket", str(world.run_dir / "control.sock"), "top", *options],
        idle=lambda: world.service.step(0.01),
        environment={"TERM": term, "PYTHONPATH": str(ROOT / "dom0")},
    )


def test_operator_looks_limits_and_releases_at_a_terminal(world: World) -> None:
    flood(world)
    cap = LimitKey(LimitKind.CAP)
    uuid = world.guests["mallory"].uuid
    with pilot(world) as top:
        assert top.sees("3 VMs  1 contained")
        top.press("\r")
        assert top.sees("tx_syn_pps")
        assert top.sees("psi_cpu_pct")
        top.press("q")
        assert top.sees("State")
        top.press("l--cap 50\r")
        assert top.sees("Limit mallory by --cap 50?")
        top.press("y")
        assert top.sees("limited: cap")
        assert cap in world.service.warden.engine.held(uuid)
        top.press("r")
        assert top.sees("Release mallory (cap, vif-pps/syn now)?")
        top.press("y")
        assert top.sees("released: cap, vif-pps/syn lifted")
        assert not world.service.warden.engine.held(uuid)
        top.press("q")
        assert top.ended() == 0


def test_terminal_is_left_after_the_iterations_and_an_unknown_one_is_refused(world: World) -> None:
    world.start("quiet")
    world.run(seconds=1)
    with pilot(world, "-n", "1", "-d", "0.2") as top:
        assert top.sees("quiet")
        assert top.ended() == 0
    with pilot(world, term="no-such") as top:
        assert top.sees("top cannot use this terminal (TERM=no-such)")
        assert top.ended() == 1
