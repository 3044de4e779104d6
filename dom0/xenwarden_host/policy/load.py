# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the policy: the built-in defaults, and over them what the admin's file says."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import fields
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeVar

from xenwarden_channel.grants import RESOURCES
from xenwarden_host import yamlfile
from xenwarden_host.errors import ConfigError
from xenwarden_host.policy import model
from xenwarden_host.records import LimitKey, LimitKind, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from xenwarden_host.yamlfile import Loaded, Place

BUILT_IN = "built-in"
_DEFAULTS = "defaults.yaml"
_T = TypeVar("_T")


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a policy file."""
    text = resources.files("xenwarden_host.policy").joinpath("schema.json").read_text("utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def defaults() -> model.Policy:
    """Return the built-in policy."""
    return load(None)


def load(path: Path | str | None) -> model.Policy:
    """Return the defaults with the file at `path` over them; None: the defaults alone.

    Raises:
        ConfigError: the file cannot be read or is no policy; `file:line: what was expected`.
    """
    raw = resources.files("xenwarden_host.policy").joinpath(_DEFAULTS).read_bytes()
    rules = schema()
    base = yamlfile.parse(raw, _DEFAULTS, rules)
    sources = dict.fromkeys((_dotted(place) for place in _leaves(base.data, ())), BUILT_IN)
    data = base.data
    own = None
    if path is not None:
        own = yamlfile.load_with_lines(path, rules)
        _check(own, str(path), set(data["profiles"]))
        for place in _leaves(own.data, ()):
            dotted = _dotted(place)
            # A list or rule that is replaced whole takes the sources of its old inside with it.
            for old in [name for name in sources if name.startswith(dotted + ".")]:
                del sources[old]
            sources[dotted] = f"{path}:{own.lines[place]}"
        data = _merged(data, own.data)
        _check_rules(data, own, str(path))
    return _policy(data, sources, own, str(path))


def _leaves(data: Any, place: Place) -> Iterator[Place]:
    """Yield the place of each value that is replaced as one."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _leaves(value, (*place, key))
    elif place:
        yield place


def _dotted(place: Place) -> str:
    return ".".join(str(part) for part in place)


def _merged(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: _merged(base[key], over[key]) if key in base else over[key] for key in over}}
    return over


def _check(own: Loaded, path: str, profiles: set[str]) -> None:
    """Check what a schema cannot say."""
    for index, network in enumerate(own.data.get("provider_networks", ())):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            line = own.lines["provider_networks", index]
            raise ConfigError(f"{path}:{line}: expected a network such as 10.0.0.0/8: {error}") from None
    profiles = profiles | set(own.data.get("profiles", {}))
    for index, entry in enumerate(own.data.get("vms", ())):
        profile = entry.get("profile", model.UNKNOWN)
        if profile not in profiles:
            line = own.lines["vms", index, "profile"]
            listed = ", ".join(sorted(profiles))
            raise ConfigError(f"{path}:{line}: unknown profile {profile!r}, expected one of {listed}")


def _check_rules(data: Mapping[str, Any], own: Loaded, path: str) -> None:
    """A rule of the admin's own must be whole: what limits or protects a VM says what convicts it."""
    for name, rule in data["rules"].items():
        line = own.lines.get(("rules", name), 1)
        for key in ("kind", "raise"):
            if key not in rule:
                raise ConfigError(f"{path}:{line}: rules.{name}: expected key {key!r}, which is missing")
        looks = rule["kind"] == model.RuleKind.ORIGINATED and not rule.get("limits")
        if rule["kind"] != model.RuleKind.ALERT and not looks and "convict" not in rule:
            raise ConfigError(f"{path}:{line}: rules.{name}: expected key 'convict', which is missing")
        if rule["kind"] != model.RuleKind.ORIGINATED and rule.get("limits"):
            raise ConfigError(
                f"{path}:{line}: rules.{name}: only a rule of kind originated may limit: "
                "what is done to a VM is never held against it"
            )


def _policy(data: Mapping[str, Any], sources: dict[str, str], own: Loaded | None, path: str) -> model.Policy:
    unknown: dict[str, float] = data["profiles"][model.UNKNOWN]["upper"]
    watch = {**data["watch"], "undecided": Verdict(data["watch"]["undecided"])}
    entries = []
    for index, entry in enumerate(data["vms"]):
        source = f"{path}:{own.lines['vms', index]}" if own and "vms" in own.data else BUILT_IN
        uuid = entry.get("uuid")
        entries.append(
            model.VmEntry(
                name=entry.get("name"),
                uuid=uuid.lower() if uuid else None,
                profile=entry.get("profile", model.UNKNOWN),
                protect=entry.get("protect", False),
                exempt=entry.get("exempt", False),
                guarantee=entry.get("guarantee", {}),
                maximum=entry.get("maximum", {}),
                source=source,
                fail_safe=model.FailSafe(entry["fail_safe"]) if "fail_safe" in entry else None,
                self_asks=tuple(entry["self_asks"]) if "self_asks" in entry else None,
            )
        )
    return model.Policy(
        tick_s=data["tick_s"],
        levels=_record(model.Levels, data["levels"]),
        provider_networks=tuple(data["provider_networks"]),
        profiles={name: {**unknown, **profile["upper"]} for name, profile in data["profiles"].items()},
        vms=tuple(entries),
        detect=_record(model.Detect, data["detect"]),
        rules=tuple(_rule(name, rule, data["watch"]["min_hits"]) for name, rule in data["rules"].items()),
        overflow=_overflow(data["overflow"]),
        neighbours=_record(model.Neighbours, data["neighbours"]),
        limits={LimitKey.parse(key): _limit(value) for key, value in data["limits"].items()},
        grants=_grants(data["grants"]),
        balance=_balance(data["balance"]),
        sprawl=_record(model.SprawlPolicy, data["sprawl"]),
        watch=_record(model.Watch, watch),
        release=_record(model.Release, data["release"]),
        agent=_record(model.AgentPolicy, data["agent"]),
        history=_record(model.HistoryPolicy, data["history"]),
        roles={model.Role(role): tuple(groups) for role, groups in data["roles"].items()},
        fail_safe=model.FailSafe(data["fail_safe"]),
        audit=_record(model.AuditPolicy, data["audit"]),
        recording=_record(model.Recording, data["recording"]),
        alerts=model.AlertPolicy(
            command=tuple(data["alerts"]["command"]),
            events=tuple(data["alerts"]["events"]),
            timeout_s=data["alerts"]["timeout_s"],
            max_running=data["alerts"]["max_running"],
        ),
        sources=sources,
    )


def _record(kind: type[_T], values: Mapping[str, Any]) -> _T:
    return kind(**{item.name: values[item.name] for item in fields(kind)})  # type: ignore[arg-type]


def _limit(values: Mapping[str, Any]) -> model.LimitPolicy:
    return model.LimitPolicy(
        signal=values["signal"],
        provisional=_record(model.Amount, values["provisional"]),
        contained=_record(model.Amount, values["contained"]),
    )


def _grants(values: Mapping[str, Any]) -> model.GrantPolicy:
    resources = {name: _record(model.GrantRule, values[name]) for name in RESOURCES}
    changed = {"resources": resources, "self_asks": tuple(values["self_asks"])}
    return _record(model.GrantPolicy, {**values, **changed})


def _balance(values: Mapping[str, Any]) -> model.BalancePolicy:
    rules = {kind: _record(model.BalanceRule, values[kind]) for kind in (LimitKind.WEIGHT, LimitKind.MEMORY)}
    return _record(model.BalancePolicy, {**values, "mode": model.BalanceMode(values["mode"]), "rules": rules})


def _overflow(values: Mapping[str, Any]) -> model.OverflowPolicy:
    gauges = {name: _record(model.Gauge, values[name]) for name in model.OVERFLOWS}
    return _record(model.OverflowPolicy, {**values, "gauges": gauges})


def _rule(name: str, values: Mapping[str, Any], min_hits: int) -> model.RuleSpec:
    return model.RuleSpec(
        name=name,
        kind=model.RuleKind(values["kind"]),
        agent=model.Trust(values.get("agent", model.Trust.ANY)),
        for_s=values.get("for_s", 0),
        hits=values.get("hits", min_hits),
        distrust=values.get("distrust", False),
        alone=values.get("alone", False),
        unlearnt=values.get("unlearnt", False),
        limits=tuple(LimitKey.parse(text) for text in values.get("limits", ())),
        raises=_groups(values["raise"]),
        convicts=_groups(values.get("convict", ())),
    )


def _groups(values: Any) -> tuple[model.Group, ...]:
    return tuple(
        tuple(model.DetectorSpec(name, args) for item in group for name, args in item.items())
        for group in values
    )
