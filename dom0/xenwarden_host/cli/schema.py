# SPDX-License-Identifier: LGPL-2.1-or-later
"""JSON Schema of what `--json` prints, made from the table of verbs as the man page is.

The table says which members there are and what they mean; here is of what type each is. What the table
names is always there; more members may come with a newer xenwarden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_host.cli.verbs import VERBS

if TYPE_CHECKING:
    from xenwarden_host.cli.verbs import Verb

_ROWS = ("limits", "release")  # these print a list of such objects
_PLACEHOLDERS = ("NAME", "SIGNAL")  # stand for any name: `signals.NAME.value`

# By path within a verb, else by the member's own name; text where neither is here.
_TYPES: dict[str, str | tuple[str, ...]] = {
    "age_s": "number",
    "also_victim": "boolean",
    "agent.cpu_s": ("number", "null"),
    "agent.rss_kb": ("integer", "null"),
    "agent.wall_s": ("number", "null"),
    "agent.age_s": ("number", "null"),
    "after_s": "number",
    "bad": "integer",
    "bytes": "integer",
    "cpu_s": "number",
    "cpus": "integer",
    "cpus_used": "number",
    "cap": ("integer", "null"),
    "cpu_pct": ("number", "null"),
    "data": "object",
    "daemon.errors.NAME": "integer",
    "doctor:checks.advice": "string",
    "domid": "integer",
    "devices.NAME.SIGNAL": "number",
    "export:version": "integer",
    "export:state": "object",
    "fits": "boolean",
    "forget:name": ("string", "null"),
    "free_kb": "integer",
    "gets_too_little": "boolean",
    "grants.value": "integer",
    "history:name": ("string", "null"),
    "hours": "array",
    "idle_s": "number",
    "import:limits": "integer",
    "import:originals": "integer",
    "import:policy": ("string", "null"),
    "import:vms": "integer",
    "is_near_max": "boolean",
    "keeps_kb": "integer",
    "known_s": "number",
    "learnt": "boolean",
    "level:was": "integer",
    "level:ordered": "integer",
    "level_ordered": "integer",
    "mem_used_pct": ("number", "null"),
    "memory_kb": "integer",
    "near_max": "integer",
    "near_max_of": "integer",
    "nodes": ("integer", "null"),
    "observations": "integer",
    "own": "integer",
    "p95": "number",
    "pressure_pct": ("number", "null"),
    "rate_bps": ("integer", "null"),
    "rx_bps": ("number", "null"),
    "samples.signals.NAME": "number",
    "seen_s": "number",
    "vm": "object",
    "dry_run": "boolean",
    "file": ("string", "null"),
    "id": ("integer", "null"),
    "kill_switch": ("string", "null"),
    "level": "integer",
    "mono_s": "number",
    "ok": "boolean",
    "on": "boolean",
    "original": ("string", "null"),
    "pid": "integer",
    "policy": "object",
    "policy:values.value": ("string", "number", "boolean", "array"),
    "provisional": "boolean",
    "records": "integer",
    "refused": "integer",
    "released_t_mono_s": ("number", "null"),
    "replay:evidence": "array",
    "replay:vm": "string",
    "score": "number",
    "rss_kb": "integer",
    "since_unix_s": "number",
    "t": "number",
    "t_mono_s": "number",
    "steal_pct": ("number", "null"),
    "steal_usual": ("number", "null"),
    "ticks": "integer",
    "top:cpus": ("integer", "null"),
    "tx_bps": ("number", "null"),
    "transaction_held_s": ("number", "null"),
    "transactions": ("integer", "null"),
    "trace.read_kb": ("number", "null"),
    "trace.took_ms": ("number", "null"),
    "unix_s": "number",
    "up_s": "number",
    "until_unix_s": ("number", "null"),
    "took_s": ("number", "null"),
    "usual": ("number", "null"),
    "value": "number",
    "vcpus": "integer",
    "verdict": ("string", "null"),
    "verdict_t_mono_s": ("number", "null"),
    "version:daemon": ("string", "null"),
    "version:xen": ("string", "null"),
    "was": ("number", "null"),
    "watches": ("integer", "null"),
}
_LISTS_OF_TEXT = ("advice", "errors", "forgotten", "lifted", "limits", "missing", "notices", "rules")
_NULLABLE_OBJECTS = ("agent", "event", "one_more", "trace", "xenstore")
_ALWAYS = {"replay": ("file", "event"), "policy": ("file",)}  # the others depend on event or action


def schema_of(verb: Verb) -> dict[str, Any]:
    """Return the JSON Schema of what the verb prints; of `events` that of each line."""
    tree: dict[str, Any] = {}
    for path, meaning in verb.json:
        node = tree
        for part in path.split("."):
            node = node.setdefault("members", {}).setdefault(part.removesuffix("[]"), {})
            if part.endswith("[]"):
                node = node.setdefault("element", {})
        node["meaning"] = meaning
    one = _schema(tree, "", verb)
    return {"type": "array", "items": one} if verb.name in _ROWS else one


def _schema(node: dict[str, Any], path: str, verb: Verb) -> dict[str, Any]:
    """Return the schema of the node of the tree that stands at `path`."""
    name = path.rpartition(".")[2]
    out: dict[str, Any] = {"description": node["meaning"]} if "meaning" in node else {}
    if "element" in node:
        return {**out, "type": "array", "items": _schema(node["element"], path, verb)}
    if "members" not in node:
        own = _TYPES.get(f"{verb.name}:{path}")
        if own is None and name in _LISTS_OF_TEXT:
            return {**out, "type": "array", "items": {"type": "string"}}
        told = own or _TYPES.get(path, _TYPES.get(name, "string"))
        return {**out, "type": told if isinstance(told, str) else list(told)}
    members = {
        key: _schema(child, f"{path}.{key}".lstrip("."), verb) for key, child in node["members"].items()
    }
    out["type"] = ["object", "null"] if name in _NULLABLE_OBJECTS else "object"
    for placeholder in _PLACEHOLDERS:
        if placeholder in members:
            return {**out, "additionalProperties": members[placeholder]}
    always = _ALWAYS.get(verb.name, list(members)) if not path else list(members)
    return {**out, "properties": members, "required": list(always)}


def document() -> dict[str, Any]:
    """Return the schema of every verb, as `#/$defs/VERB`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What xenwarden --json prints, by verb",
        "$defs": {verb.name: {"title": verb.summary, **schema_of(verb)} for verb in VERBS},
    }
