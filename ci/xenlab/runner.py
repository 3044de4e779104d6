# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run one scenario: machine, time line, result."""

from __future__ import annotations

import contextlib
import json
import re
import time
from typing import TYPE_CHECKING, Any

from xenlab import accel, expect, layers, progress, watch
from xenlab.errors import LabError
from xenlab.machine import Lab
from xenlab.moments import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenlab.scenario import Scenario

TIMEOUT_S = 60.0  # of a step that names none
RETRIES = 3  # of a scenario that failed because the emulator lost a guest
POLL_S = 2.0
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
Event = dict[str, Any]


def _last_number(line: str) -> float | None:
    found = _NUMBER.findall(line)
    return float(found[-1]) if found else None


def run(
    scenario: Scenario,
    *,
    accelerator: str = "auto",
    patience: float = 1.0,
    on_event: Callable[[Event], None] | None = None,
    keep: bool = False,
) -> tuple[Outcome, Lab | None]:
    """Run the scenario and return what came of it, and the machine where it is to be kept.

    `on_event` is called, from another thread, with each event of the product as `xenwarden events --json`
    prints it, and `t_s` added. `patience` multiplies each deadline of the scenario. A machine that fails is
    a failure of the scenario; its console's end is shown. Nothing is left behind, whatever ends the run.
    """
    start = time.monotonic()
    lost: list[str] = []
    while True:
        progress.say(f"scenario {scenario.name}: {scenario.description or scenario.path}")
        outcome, lab, fault = _attempt(scenario, accelerator, patience, on_event, keep=keep)
        if fault is None or len(lost) == RETRIES:
            break
        lost.append(fault)
        progress.say(f"{fault}: the scenario starts anew (attempt {len(lost) + 1} of {RETRIES + 1})")
    outcome.emulator_faults = lost
    outcome.timings["total_s"] = time.monotonic() - start
    return outcome, lab


def _attempt(
    scenario: Scenario,
    accelerator: str,
    patience: float,
    on_event: Callable[[Event], None] | None,
    *,
    keep: bool,
) -> tuple[Outcome, Lab | None, str | None]:
    """Play the scenario once; return also what the emulator broke, if that is why it failed."""
    outcome = Outcome(scenario.name, scenario.description)
    start = time.monotonic()
    lab: Lab | None = None
    fault = None
    kept = False
    try:
        images = layers.get()
        chosen = accel.choose(accelerator, images, scenario.machine)
        outcome.timings["setup_s"] = time.monotonic() - start
        boot_start = time.monotonic()
        lab = Lab(scenario.machine, images, chosen, keep=keep)
        lab.start()
        outcome.timings["boot_s"] = time.monotonic() - boot_start
        player = Runner(scenario, lab, outcome, patience, on_event)
        player.run()
        outcome.timings["until_steps_s"] = player.start - start
        outcome.failures += expect.failures(scenario.expect, outcome, patience)
        kept = keep
    except LabError as e:
        if e.output:
            progress.say(f"the end of what was said:\n{e.output.rstrip()}")
        outcome.failures.append(f"{e.message} {e.hint}".strip())
    finally:
        if lab and outcome.failures:
            fault = lab.emulator_fault()
        if lab and not kept:
            lab.close()
    return outcome, lab if kept else None, fault


class Runner:
    """Plays the time line on a machine that is up."""

    def __init__(
        self,
        scenario: Scenario,
        lab: Lab,
        outcome: Outcome,
        patience: float,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        self._scenario = scenario
        self._lab = lab
        self._outcome = outcome
        self._patience = patience
        self._on_event = on_event
        self.start = 0.0  # this machine's monotonic clock at the first step
        self._mono_offset = 0.0  # dom0's CLOCK_MONOTONIC at the first step
        self._env: dict[str, str] = {}
        self._earlier: dict[str, dict[str, Any]] = {}
        self._running: dict[str, dict[str, Any]] = {}  # background steps by name

    def run(self) -> None:
        """Play all steps, then ask what came of it."""
        lab, machine = self._lab, self._scenario.machine
        self._outcome.host = watch.host_facts(lab.link, machine.host.xenstored)
        ids = watch.domids(lab.link)
        self._env = watch.environment(machine.guests, ids)
        self._outcome.before = watch.standing_limits(lab.link, machine.host.scheduler, machine.guests, ids)
        self.start = time.monotonic()
        self._listen()
        try:
            for step in self._scenario.steps:
                self._step(step)
        finally:
            with contextlib.suppress(LabError):  # what ended the steps is what counts
                for name in list(self._running):
                    self._end({"stop": name})
        self._collect()
        ids = watch.domids(lab.link)
        self._outcome.after = watch.standing_limits(lab.link, machine.host.scheduler, machine.guests, ids)
        if machine.host.xenwarden:
            self._outcome.daemon = watch.daemon(lab.link)

    # --- time -------------------------------------------------------------------------------------

    def _now(self) -> float:
        return time.monotonic() - self.start

    def _to_t_s(self, mono_s: float | None) -> float | None:
        return None if mono_s is None else round(mono_s - self._mono_offset, 2)

    def _listen(self) -> None:
        """Set the clocks side by side and follow the product's events."""
        link = self._lab.link
        asked = time.monotonic()
        mono_s = link.ask("clock")["mono_s"]
        middle = (asked + time.monotonic()) / 2 - self.start
        self._mono_offset = mono_s - middle
        if self._scenario.machine.host.xenwarden:
            link.on_event = self._take_event
            link.send("stream", name="events", command="exec xenwarden --json events -f -n 0")

    def _take_event(self, message: dict[str, Any]) -> None:
        if message.get("stream") != "events":
            return
        try:
            event = json.loads(message["line"])
            event["t_s"] = self._to_t_s(event["mono_s"])
        except (ValueError, KeyError):
            progress.say(f"dom0: {message['line']}")
            return
        if self._on_event:
            self._on_event(event)
        else:
            progress.say(f"t={event['t_s']:.1f}  {event['text']}")

    # --- steps --------------------------------------------------------------------------------------

    def _step(self, step: dict[str, Any]) -> None:
        due = step["at"] if "at" in step else self._now() + step.get("after", 0)
        time.sleep(max(0.0, due - self._now()))
        t_s = round(self._now(), 2)
        where = step.get("in", "dom0")
        record: dict[str, Any] = {"name": step.get("name"), "in": where, "t_s": t_s}
        self._outcome.steps.append(record)
        action = next(a for a in ("run", "until", "stop", "wait", "pause", "reboot") if a in step)
        what = step[action] if isinstance(step[action], str) else json.dumps(step[action])
        told = step.get("say") or f"{where}: {action} {' '.join(what.split())[:90]}"
        progress.say(f"t={t_s:.1f}  {told}")
        record.update({"action": action, "what": what})
        handlers = {
            "run": self._run,
            "until": self._until,
            "stop": self._stop,
            "wait": self._wait,
            "pause": self._pause,
            "reboot": self._reboot,
        }
        handlers[action](step, record)

    def _timeout(self, step: dict[str, Any]) -> float:
        return float(step.get("timeout", TIMEOUT_S)) * self._patience

    def _fields(self, step: dict[str, Any]) -> dict[str, Any]:
        guest = step.get("in", "dom0")
        return {"env": self._env, **({} if guest == "dom0" else {"guest": guest})}

    def _run(self, step: dict[str, Any], record: dict[str, Any]) -> None:
        link = self._lab.link
        if step.get("background"):
            link.ask("spawn", 60, name=step["name"], command=step["run"], **self._fields(step))
            self._running[step["name"]] = {**step, "t_s": record["t_s"]}
            return
        result = link.run(step["run"], self._timeout(step), **self._fields(step))
        record["status"] = result["status"]
        record["seconds"] = round(result["end_s"] - result["start_s"], 2)
        if "expect_output" in step:
            record["output"] = result["output"]
        self._judge(step, record, result["status"], result["output"])
        self._save(step, [(record["t_s"], line) for line in result["output"].splitlines()])

    def _until(self, step: dict[str, Any], record: dict[str, Any]) -> None:
        end = time.monotonic() + self._timeout(step)
        while True:
            result = self._lab.link.run(step["until"], max(1.0, end - time.monotonic()), **self._fields(step))
            record["status"] = result["status"]
            if result["status"] == 0:
                self._save(step, [(record["t_s"], line) for line in result["output"].splitlines()])
                return
            if time.monotonic() + POLL_S > end:
                self._fail(record, f"`{step['until']}` did not come true in {self._timeout(step):g} s")
                return
            time.sleep(POLL_S)

    def _stop(self, step: dict[str, Any], record: dict[str, Any]) -> None:
        where, status, output = self._end(step)
        record.update({"in": where, "status": status})
        # Still running is what a background command should be: a status is judged where one is expected.
        if "expect_status" in step or "expect_output" in step:
            self._judge(step, record, status, output)

    def _end(self, step: dict[str, Any]) -> tuple[str, int | None, str]:
        """Stop a background command and save what it printed; return where it ran, its status, its output."""
        started = self._running.pop(step["stop"])
        result = self._lab.link.ask("stop", 60, name=step["stop"], **self._fields(started))
        lines = [(round(started["t_s"] + at, 2), line) for at, line in result["lines"]]
        self._save({**started, **step}, lines)
        return started.get("in", "dom0"), result["status"], "\n".join(line for _, line in lines)

    def _wait(self, step: dict[str, Any], record: dict[str, Any]) -> None:
        guest, moment = step["wait"]["guest"], step["wait"]["for"]
        end = time.monotonic() + self._timeout(step)
        while True:
            self._collect([guest])
            if self._outcome.moment(f"{guest}.{moment}") is not None:
                return
            if time.monotonic() + POLL_S > end:
                self._fail(record, f"{guest}.{moment} did not come in {self._timeout(step):g} s")
                return
            time.sleep(POLL_S)

    def _pause(self, step: dict[str, Any], _record: dict[str, Any]) -> None:
        time.sleep(step["pause"])

    def _reboot(self, _step: dict[str, Any], _record: dict[str, Any]) -> None:
        self._collect()
        # A daemon tells of its own life only; what came before is kept here.
        self._earlier = dict(self._outcome.guests)
        self._running.clear()
        self._lab.reboot()
        self._env = watch.environment(self._scenario.machine.guests, watch.domids(self._lab.link))
        self._listen()

    # --- results ------------------------------------------------------------------------------------

    def _judge(self, step: dict[str, Any], record: dict[str, Any], status: int | None, output: str) -> None:
        wanted = step.get("expect_status", 0)
        if status is None and "run" in step:
            self._fail(record, f"did not end within {self._timeout(step):g} s", output)
        elif status != wanted:
            self._fail(record, f"ended with status {status}, expected {wanted}", output)
        if "expect_output" in step and not re.search(step["expect_output"], output, re.MULTILINE):
            self._fail(record, f"printed nothing that matches {step['expect_output']!r}", output)

    def _fail(self, record: dict[str, Any], text: str, output: str = "") -> None:
        name = record.get("name") or " ".join(record["what"].split())[:60]
        said = f"; it said: {output.strip()[-1500:]}" if output.strip() else ""
        self._outcome.failures.append(
            f"step `{name}` in {record['in']} at {record['t_s']:.0f} s {text}{said}"
        )
        progress.say(f"FAILED: {self._outcome.failures[-1]}")

    def _save(self, step: dict[str, Any], lines: list[tuple[float, str]]) -> None:
        if "save_as" in step:
            points = [(t, n) for t, line in lines if (n := _last_number(line)) is not None]
            self._outcome.saved.setdefault(step["save_as"], []).extend(points)

    def _collect(self, names: list[str] | None = None) -> None:
        """Ask the product about the guests; what an earlier life of the daemon told is kept."""
        machine = self._scenario.machine
        link = self._lab.link
        if not machine.host.xenwarden:
            self._outcome.guests = {g.name: watch.bare_guest(link, g) for g in machine.guests}
            return
        for name in names or ["dom0", *(g.name for g in machine.guests)]:
            new = watch.guest_result(link, "Domain-0" if name == "dom0" else name, self._to_t_s)
            if new is None:
                guest = next((g for g in machine.guests if g.name == name), None)
                if guest and name not in self._outcome.guests:
                    self._outcome.guests[name] = watch.bare_guest(link, guest)
                continue
            for kind in ("levels", "limits"):
                new[kind] = [*self._earlier.get(name, {}).get(kind, ()), *new[kind]]
            self._outcome.guests[name] = new
