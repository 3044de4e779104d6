# SPDX-License-Identifier: LGPL-2.1-or-later
"""A person's YAML file is read, or refused with the line and what was expected."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenwarden_host import yamlfile
from xenwarden_host.errors import ConfigError

SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "tick_s": {"type": "number", "minimum": 0.1},
        "kind": {"enum": ["attacker", "victim"]},
        "on": {"type": "boolean"},
        "guests": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name"],
                "additionalProperties": False,
                "properties": {"name": {"type": "string"}, "memory_mb": {"type": "integer"}},
            },
        },
        "either": {
            "oneOf": [{"type": "integer"}, {"type": "object", "properties": {"x": {"type": "integer"}}}]
        },
        "upper": {"type": "object", "propertyNames": {"enum": ["tx_syn_pps", "rx_syn_pps"]}},
        "network": {"type": "string", "pattern": "/", "x-expected": "a network such as 10.0.0.0/8"},
    },
}


def load(tmp_path: Path, text: str | bytes) -> Any:
    file = tmp_path / "it.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return yamlfile.load(file, SCHEMA)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ntik_s: 1\n", ":2: unknown key 'tik_s', did you mean 'tick_s'?"),
        ("name: a\nzzz: 1\n", ":2: unknown key 'zzz', expected one of either, guests, kind, name, network"),
        ("tick_s: 0\n", ":1: tick_s: expected a number of at least 0.1, found 0"),
        ("\n\ntick_s: soon\n", ":3: tick_s: expected a number, found 'soon'"),
        (
            "kind: atacker\n",
            ":1: kind: expected one of attacker, victim (did you mean 'attacker'?), found 'atacker'",
        ),
        (
            "guests:\n- name: a\n- name: b\n  memory_mb: lots\n",
            ":4: guests.1.memory_mb: expected a whole number",
        ),
        ("guests:\n- name: a\n- memory_mb: 3\n", ":3: guests.1: expected key 'name', which is missing"),
        ("guests: []\n", ":1: guests: expected a list of at least 1, found a list of 0"),
        ("name: a\nkind: victim\nname: b\n", ":3: key 'name' is given twice, first on line 1"),
        ("guests:\n- {name: a, name: b}\n", ":2: key 'name' is given twice, first on line 2"),
        ("name: a\nguests: [{name: b}\nkind: x\n", ":3: is no valid YAML"),
        ("name: 'half writ", ":1: is no valid YAML"),
        ("name: a\n\tkind: victim\n", ":2: is no valid YAML"),
        ("tick_s:\n", ":1: tick_s: expected a number, found nothing"),
        ("tick_s: yes\n", ":1: tick_s: expected a number, found true"),
        ("kind: 2026-01-31\n", "victim, found 2026-01-31"),
        (f"tick_s: {'9' * 5000}\n", ":1: is no valid value: too long (5000 characters)"),
        ("- a\n- b\n", ":1: expected keys with values, found a list of 2"),
        ("tick_s: .inf\n", ":1: expected a finite number"),
        ("name: a\ntick_s: .nan\n", ":2: expected a finite number"),
        ("upper:\n  tx_sin_pps: 3\n", ":2: upper: unknown key 'tx_sin_pps', did you mean 'tx_syn_pps'?"),
        ("network: ten\n", ":1: network: expected a network such as 10.0.0.0/8, found 'ten'"),
        ("either:\n  x: word\n", ":2: either.x: expected a whole number, found 'word'"),
        ("? [a, b]\n: 1\n", ":1: expected a plain word as key"),
        ("name: !!python/name:os.system x\n", ":1: is no valid value"),
        ("<<: {name: a}\n", ":1: unknown key '<<'"),
        (b"name: a\nkind: \xff\xfe\n", ":2: expected UTF-8 text"),
        (b"\x7fELF\x02\x01\x00\x00", ":1: expected text, found the control character"),
        (b"name: a\nkind: \x00\x00\x00", ":2: expected text, found the control character"),
        (b"name: " + b"x" * (1 << 20), ": is larger than 1024 KiB"),
        ("[" * 2000, ": is n"),
        ("name: &a [*a]\n", "is nested deeper"),
    ],
)
def test_a_bad_file_gets_line_and_expectation(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    first = str(caught.value).splitlines()[0]
    assert first.startswith(str(tmp_path / "it.yaml"))
    assert message in first


def test_several_mistakes_are_told_at_once_in_order(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "kind: x\nname: 3\ntick_s: 0\n")
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["1", "2", "3"]


def test_aliases_that_multiply_end(tmp_path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="holds more than 100000 values"):
        load(tmp_path, "\n".join(rows))


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, why in ((tmp_path / "fifo", "no regular file"), (tmp_path, "no regular file"),
                      (tmp_path / "gone", "No such file")):  # fmt: skip
        with pytest.raises(ConfigError, match=why):
            yamlfile.load(path, SCHEMA)


def test_good_files_give_their_data(tmp_path: Path) -> None:
    assert load(tmp_path, "") == {}
    assert load(tmp_path, "# nothing but a comment\n") == {}
    assert load(tmp_path, "\ufeffname: a\n") == {"name": "a"}
    # YAML 1.1 would read the key as a boolean.
    assert load(tmp_path, "on: yes\nguests:\r\n- {name: 'x'}\n") == {"on": True, "guests": [{"name": "x"}]}
    loaded = yamlfile.parse(b"name: a\nguests:\n- name: b\n", "x", SCHEMA)
    assert loaded.lines["guests", 0, "name"] == 3


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_data_or_a_config_error(raw: bytes) -> None:
    try:
        said = yamlfile.parse(raw, "x", SCHEMA).data
    except ConfigError as error:
        said = str(error)
    assert isinstance(said, dict) or said.startswith("x:")


def test_importing_costs_no_jsonschema() -> None:
    code = "import sys, xenwarden_host.yamlfile; sys.exit('jsonschema' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    env = {**os.environ, "PYTHONPATH": f"{root / 'dom0'}:{root / 'xenstore'}"}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0
