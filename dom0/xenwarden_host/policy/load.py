# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the policy: the built-in defaults, and over them what the admin's file says."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeVar

from xenwarden_channel.grants import RESOURCES
from xenwarden_host import yamlfile
from xenwarden_host.errors import ConfigError
from xenwarden_host.policy import model
from xenwarden_host.records import LimitKey, LimitKind, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from xenwarden_host.yamlfile import Loaded, Place

_DEFAULTS = "defaults.yaml"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Draft:
    """A whole policy as it is written, before it is made into records.

    Attributes:
        data: as in a file that says everything.
        sources: where each value came from, by dotted key; of entries of `vms` as `vms.0.profile`.
        nodes: what nodes of XenStore say of one VM, by UUID.
        refused: why the value of a node does not count, by node.
    """

    data: dict[str, Any]
    sources: dict[str, str]
    nodes: dict[str, model.VmNodes] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


@cache
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
    return build(read(path))


def read(path: Path | str | None) -> Draft:
    """Read as `load` does, and leave it a draft.

    Raises:
        ConfigError: as `load`.
    """
    raw = resources.files("xenwarden_host.policy").joinpath(_DEFAULTS).read_bytes()
    base = yamlfile.parse(raw, _DEFAULTS, schema())
    draft = Draft(base.data, {dotted(place): model.BUILT_IN for place in leaves(base.data)})
    if path is None:
        return draft
    own = yamlfile.load_with_lines(path, schema())
    draft = put(draft, own, str(path), lambda place: f"{path}:{own.lines[place]}")
    for index, entry in enumerate(own.data.get("vms", ())):
        for place in leaves(entry, ("vms", index)):
            draft.sources[dotted(place)] = f"{path}:{own.lines[place]}"
    return draft


def put(draft: Draft, own: Loaded, name: str, source: Callable[[Place], str]) -> Draft:
    """Return the draft with `own`, which the schema allows, over it.

    In messages it is `name`; `source` tells of a place in `own` where it was written.

    Raises:
        ConfigError: it makes no policy.
    """
    check(own, name, set(draft.data["profiles"]))
    data, sources = _merged(draft.data, own.data), dict(draft.sources)
    _check_rules(data, own, name)
    for place in leaves(own.data):
        key = dotted(place)
        # A list or rule that is replaced whole takes the sources of its old inside with it.
        for old in [old for old in sources if old.startswith(key + ".")]:
            del sources[old]
        sources[key] = source(place)
    return replace(draft, data=data, sources=sources)


def leaves(data: Any, place: Place = ()) -> Iterator[Place]:
    """Yield the place of each value that is replaced as one."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from leaves(value, (*place, key))
    elif place:
        yield place


def dotted(place: Place) -> str:
    """Return a place as people write it."""
    return ".".join(str(part) for part in place)


def _merged(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: _merged(base[key], over[key]) if key in base else over[key] for key in over}}
    return over


def check(own: Loaded, path: str, profiles: set[str]) -> None:
    """Check what a schema cannot say.

    Raises:
        ConfigError: as `load`.
    """
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


def build(draft: Draft) -> model.Policy:
    """Return the records of a draft."""
    data, sources = draft.data, draft.sources
    unknown: dict[str, float] = data["profiles"][model.UNKNOWN]["upper"]
    watch = {**data["watch"], "undecided": Verdict(data["watch"]["undecided"])}
    entries = []
    for index, entry in enumerate(data["vms"]):
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
                sources=_of_entry(sources, f"vms.{index}."),
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
        data=data,
        nodes=draft.nodes,
        refused=draft.refused,
    )


def _of_entry(sources: Mapping[str, str], top: str) -> dict[str, str]:
    return {key.removeprefix(top): source for key, source in sources.items() if key.startswith(top)}


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
        stop=values.get("stop", False),
        limits=tuple(LimitKey.parse(text) for text in values.get("limits", ())),
        raises=_groups(values["raise"]),
        convicts=_groups(values.get("convict", ())),
    )


def _groups(values: Any) -> tuple[model.Group, ...]:
    return tuple(
        tuple(model.DetectorSpec(name, args) for item in group for name, args in item.items())
        for group in values
    )
