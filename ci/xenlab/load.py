# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a scenario file. Every complaint has the file, the line and what was expected."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import yaml

from xenlab import store
from xenlab.errors import ScenarioError
from xenlab.scenario import Guest, Host, Machine, Scenario, Vif
from xenwarden_host import yamlfile
from xenwarden_host.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ACTIONS = ("run", "until", "stop", "wait", "pause", "reboot")
FITTING = {  # keys that mean something only with some actions
    "in": ("run", "until"),
    "background": ("run",),
    "timeout": ("run", "until", "wait"),
    "save_as": ("run", "until", "stop"),
    "expect_status": ("run", "stop"),
    "expect_output": ("run", "stop"),
}


def schema() -> dict[str, Any]:
    """Return the JSON Schema of scenario files."""
    loaded: dict[str, Any] = yaml.safe_load((store.HERE / "scenario.schema.yaml").read_text())
    return loaded


def load(path: Path) -> Scenario:
    """Return the scenario in the file at `path`. Raises ScenarioError."""
    try:
        loaded = yamlfile.load_with_lines(path, schema())
        return _Reader(path, loaded).scenario()
    except ConfigError as e:
        raise ScenarioError(str(e)) from e


class _Reader:
    """Checks what a schema cannot: names that refer to others, keys that exclude each other."""

    def __init__(self, path: Path, loaded: yamlfile.Loaded) -> None:
        self._path = path
        self._loaded = loaded
        self._data: dict[str, Any] = loaded.data

    def scenario(self) -> Scenario:
        data = self._data
        guests = tuple(self._guest(i, g) for i, g in enumerate(data["guests"]))
        names = [g.name for g in guests]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise self._error(("guests", i, "name"), f"the name {name!r} is given twice")
        host = data.get("host", {})
        if host.get("init") != "systemd" and any("reboot" in s for s in data["steps"]):
            i = next(i for i, s in enumerate(data["steps"]) if "reboot" in s)
            raise self._error(
                ("steps", i, "reboot"),
                "reboot needs `init: systemd` in host: the fast init has no disk to keep",
            )
        steps = tuple(self._step(i, s, names) for i, s in enumerate(data["steps"]))
        self._expect(data.get("expect", {}), names)
        return Scenario(
            path=self._path,
            name=data.get("name", self._path.stem),
            description=" ".join(data.get("description", "").split()),
            machine=Machine(
                Host(**{{"memory": "memory_mb"}.get(k, k): v for k, v in host.items()}),
                guests,
            ),
            steps=steps,
            expect=data.get("expect", {}),
        )

    def _guest(self, index: int, data: dict[str, Any]) -> Guest:
        units = {"memory": "memory_mb", "max_memory": "max_memory_mb"}
        fields = {units.get(k, k): v for k, v in data.items()}
        if "vifs" in fields:
            fields["vifs"] = tuple(Vif(**v) for v in fields["vifs"])
        return Guest(index=index, **fields)

    def _step(self, index: int, step: dict[str, Any], guests: list[str]) -> dict[str, Any]:
        place = ("steps", index)
        actions = [a for a in ACTIONS if a in step]
        if len(actions) != 1:
            found = " and ".join(actions) or "none"
            raise self._error(place, f"expected one of {', '.join(ACTIONS)} in a step, found {found}")
        action = actions[0]
        for key, fitting in FITTING.items():
            if key in step and action not in fitting:
                raise self._error((*place, key), f"{key!r} does not go with {action!r}")
        if "at" in step and "after" in step:
            raise self._error((*place, "after"), "expected `at` or `after`, not both")
        if "in" in step:
            self._known((*place, "in"), step["in"], [*guests, "dom0"], "guest")
        if "wait" in step:
            self._known((*place, "wait", "guest"), step["wait"]["guest"], guests, "guest")
        if step.get("background") and "name" not in step:
            raise self._error(place, "a background step needs a name, so that it can be stopped")
        earlier = self._data["steps"][:index]
        if "name" in step and step["name"] in [s.get("name") for s in earlier]:
            raise self._error((*place, "name"), f"the name {step['name']!r} is given twice")
        if "stop" in step:
            running = [s["name"] for s in earlier if s.get("background")]
            self._known((*place, "stop"), step["stop"], running, "background step before this one")
        return step

    def _expect(self, expect: dict[str, Any], guests: list[str]) -> None:
        steps = [s["name"] for s in self._data["steps"] if "name" in s]
        if "since" in expect:
            self._known(("expect", "since"), expect["since"], steps, "step")
        for name in expect.get("guests", {}):
            self._known(("expect", "guests", name), name, [*guests, "dom0"], "guest")
        saved = [s["save_as"] for s in self._data["steps"] if "save_as" in s]
        for i, figure in enumerate(expect.get("figures", [])):
            for side in ("left", "right"):
                value = figure[side]
                if not isinstance(value, dict):
                    continue
                self._known(("expect", "figures", i, side, "of"), value["of"], saved, "`save_as` of a step")
                for key in ("from", "to"):
                    moment = value.get(key)
                    if isinstance(moment, str):
                        name, dot, _ = moment.partition(".")
                        known, what = (guests, "guest") if dot else (steps, "step")
                        self._known(("expect", "figures", i, side, key), name, known, what)

    def _known(self, place: yamlfile.Place, name: str, known: Iterable[str], what: str) -> None:
        known = list(known)
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known) or 'none'}"
            raise self._error(place, f"no {what} is named {name!r}, {hint}")

    def _error(self, place: yamlfile.Place, text: str) -> ScenarioError:
        while place not in self._loaded.lines and place:
            place = place[:-1]
        return ScenarioError(f"{self._path}:{self._loaded.lines.get(place, 1)}: {text}")
