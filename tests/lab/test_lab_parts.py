# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's parts that need no machine: its cache, its lines on a console, its commands."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab_jobs import Jobs
from lab_lines import decode, encode

from xenlab import keep, qemu, store, watch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XENWARDEN_CACHE", str(tmp_path / "cache"))
    return store.cache_dir()


def names(cache: Path) -> set[str]:
    return {p.name for p in cache.iterdir()} - {"locks"}


def touch(path: Path) -> None:
    (path / "file").write_text("x")


def test_what_is_built_is_built_once(cache: Path) -> None:
    made = []

    def make(path: Path) -> None:
        made.append(path)
        touch(path)

    assert store.build("image", "a", make) == store.build("image", "a", make) == cache / "image-a"
    assert len(made) == 1
    assert (cache / "image-a" / "file").exists()


def test_a_build_that_fails_leaves_nothing(cache: Path) -> None:
    def make(path: Path) -> None:
        touch(path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.build("image", "a", make)
    assert names(cache) == set()


def test_what_a_killed_build_left_goes_with_the_next(cache: Path) -> None:
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    (cache / f".new-{gone}-x").mkdir()
    (cache / f".new-{os.getpid()}-x").mkdir()  # of a build that runs now
    store.build("image", "a", touch)
    assert names(cache) == {"image-a", f".new-{os.getpid()}-x"}


def test_only_the_last_ones_are_kept(cache: Path) -> None:
    for i, key in enumerate("abcd"):
        os.utime(store.build("image", key, touch, keep=2), (i, i))
    store.build("image", "c", touch, keep=2)
    assert names(cache) == {"image-c", "image-d"}


def test_a_key_changes_with_what_went_in(tmp_path: Path) -> None:
    file = tmp_path / "script"
    file.write_text("one")
    first = store.key_of(["x"], [file])
    assert first == store.key_of(["x"], [file])
    assert first != store.key_of(["y"], [file])
    file.chmod(0o755)
    executable = store.key_of(["x"], [file])
    assert executable != first
    file.write_text("two")
    assert store.key_of(["x"], [file]) != executable


def test_a_run_directory_goes_when_its_owner_was_killed(cache: Path) -> None:
    child = os.fork()
    if child == 0:
        qemu.Run()
        os._exit(0)  # without cleaning up, as kill -9 does
    os.waitpid(child, 0)
    left = list((cache / "runs").iterdir())
    assert len(left) == 1
    run = qemu.Run()
    assert list((cache / "runs").iterdir()) == [run.path]
    run.close()
    assert list((cache / "runs").iterdir()) == []


def test_no_machine_is_kept_where_none_is(cache: Path) -> None:
    assert keep.connect() is None
    keep.end()
    (cache / "kept").write_text(str(cache / "runs" / "gone"))
    assert keep.connect() is None
    keep.end()
    assert names(cache) == set()


MESSAGES = st.dictionaries(st.text(max_size=8), st.text(max_size=40) | st.integers() | st.none(), max_size=5)


@given(MESSAGES, st.binary(max_size=40), st.binary(max_size=40))
def test_a_line_is_read_whatever_stands_around_it(
    message: dict[str, Any], before: bytes, after: bytes
) -> None:
    (line,) = [x for x in encode(message).split(b"\n") if x]
    noise = before.replace(b"\n", b" ").replace(b"\x02", b" ")
    assert decode(noise + line + b" " + after.replace(b"\n", b" ")) == message


@given(MESSAGES, st.integers(0, 10_000), st.binary(min_size=1, max_size=20))
def test_a_line_with_a_kernel_message_in_it_is_dropped(
    message: dict[str, Any], where: int, noise: bytes
) -> None:
    (line,) = [x for x in encode(message).split(b"\n") if x]
    where %= len(line) + 1
    assert decode(line[:where] + noise + line[where:]) in (None, message)


@given(st.binary(max_size=200))
def test_noise_is_no_message(noise: bytes) -> None:
    assert decode(noise) is None


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.chdir(tmp_path)
    jobs = Jobs(output_limit=1000)
    yield jobs
    jobs.stop_all()


def test_a_command_has_status_output_and_environment(jobs: Jobs) -> None:
    result = jobs.run("echo $A; echo bad >&2; exit 3", 10, {"A": "here"})
    assert result["status"] == 3
    assert result["output"] == "here\nbad\n"


def test_a_command_that_takes_too_long_is_stopped_with_its_children(jobs: Jobs, tmp_path: Path) -> None:
    result = jobs.run(f"(sleep 3; touch {tmp_path}/late) & sleep 60", 0.2, {})
    assert result["status"] is None
    time.sleep(3.3)
    assert not (tmp_path / "late").exists()


def test_output_is_bounded(jobs: Jobs) -> None:
    assert len(str(jobs.run("head -c 100000 /dev/zero | tr '\\0' x", 10, {})["output"])) == 1000


def test_a_command_whose_children_keep_its_output_open_ends(jobs: Jobs) -> None:
    assert jobs.run("sleep 5 & echo started", 3, {})["output"] == "started\n"


def test_a_background_command_is_stopped_and_its_lines_have_times(jobs: Jobs) -> None:
    jobs.spawn("ticks", "while :; do echo tick; sleep 0.05; done", {})
    assert "still running" in str(jobs.spawn("ticks", "true", {})["error"])
    time.sleep(0.5)
    result = jobs.stop("ticks")
    assert result["status"] is None
    lines = result["lines"]
    assert isinstance(lines, list)
    assert [text for _, text in lines[:2]] == ["tick", "tick"]
    assert [at for at, _ in lines] == sorted(at for at, _ in lines)
    assert "no background command" in str(jobs.stop("ticks")["error"])


def test_a_background_command_that_ended_tells_its_status(jobs: Jobs) -> None:
    jobs.spawn("short", "exit 4", {})
    time.sleep(0.5)
    assert jobs.stop("short")["status"] == 4


def test_what_stood_on_a_vif_is_the_same_after_a_restore_under_another_domid() -> None:
    def standing(domid: int) -> dict[str, dict[str, str]]:
        text = (
            "== sched\nName ID Weight Cap\nvm 9 256 0\n"
            f"== qdisc\nqdisc noqueue 0: dev lo root\nqdisc clsact ffff: dev vif{domid}.0 parent ffff:fff1\n"
            f'== memory\n196608\n== rate\n/local/domain/0/backend/vif/{domid}/0/rate = "1,1"\n'
            f"== ingress vif{domid}.0\nfilter protocol ip pref 5\n== egress vif{domid}.0\n"
        )
        return watch.parse_limits(text, [("vm", domid)])

    assert standing(1) == standing(27)
    assert len(standing(1)["vm"]) == 5
