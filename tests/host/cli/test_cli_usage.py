# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: wrong usage, help, and what is made from the table of verbs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenwarden_host.cli import manual, output
from xenwarden_host.cli.commands import RUN
from xenwarden_host.cli.main import main
from xenwarden_host.cli.parser import UsageError, parse
from xenwarden_host.cli.verbs import GLOBAL_OPTIONS, VERBS
from xenwarden_host.control import lean

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "which verb"),
        ("level web", "needs 1|2"),
        ("level web 3", "takes 1|2"),
        ("top -d soon", "--delay needs 0.2 to"),
        ("top -d nan", "--delay needs"),
        ("top -n 0", "--iterations needs"),
        ("top -s colour", "not by 'colour'"),
        ("lst", "did you mean"),
        ("list extra", "takes no 'extra'"),
        ("show", "needs DOMAIN"),
        ("show a b", "takes no 'b'"),
        ("--frob list", "no option --frob"),
        ("list --all", "no option --all"),
        ("release", "DOMAIN or --all"),
        ("release --all web", "DOMAIN or --all"),
        ("events -n", "needs a value"),
        ("events -n many", "needs a number"),
        ("events -n -5", "needs a number"),
        ("events -n ²", "needs a number"),
        ("events -n 9999999999", "needs a number"),
        ("events -fq", "no option -q"),
        ("list --version", "the verb version"),
        ("help", "did you mean --help"),
        ("events --follow=yes", "takes no value"),
        ("policy", "needs show|check|default"),
        ("policy frob", "takes show|check|default"),
        ("policy check", "takes a FILE"),
        ("policy default x", "takes no FILE"),
        ("kill-switch maybe", "takes on|off|status"),
        ("-N list", "changes nothing"),
        ("limit", "needs DOMAIN"),
        ("limit web --cap", "needs a value"),
        ("limit web --cap lots", "no whole number"),
        ("limit web --vif-rate 10Mb", "no rate such as"),
        ("limit web --vif-rate 10Mb/s@50", "a bare number is seconds"),
        ("limit web --vif-pps dns=5", "no class of packets"),
        ("limit web --for 10", "needs a limit to set"),
        ("limit web --cap 5 --for soon", "no time such as"),
        ("limit web -N", "needs a limit to set"),
        ("--socket", "needs a value"),
        ("LIST", "did you mean list"),
        ("--jsno list", "did you mean --json"),
        ("list --verbos", "did you mean --verbose"),
        ("limit web --vif-rat 5Mb/s", "did you mean --vif-rate"),
        ("limit web --weight 70000", "a weight is 1 to 65535"),
        ("--json policy default", "--json has no meaning"),
        ("report web -o x --since yesterday", "does not understand 'yesterday'"),
        ("report web -o x --since 2999-01-01", "has not been yet"),
    ],
)
def test_wrong_usage_is_a_sentence_a_hint_and_status_2(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "--help" in err.splitlines()[1]


@pytest.mark.parametrize(
    "words", [["show", ""], ["release", ""], ["replay", "a", ""], ["policy", "check", ""]]
)
def test_empty_word_as_of_a_variable_that_is_not_set_is_wrong_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert "not an empty word" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["--cap 9", "--vif-in 9Mb/s", "--memory 9", "--vif-pps 9", "--cap 1 --for 9"], ids=str.split
)
def test_number_of_very_many_digits_is_a_sentence(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["limit", "web", *option.replace("9", "9" * 5000).split()]) == 2
    err = capsys.readouterr().err
    assert "is no " in err
    assert "set_int_max_str_digits" not in err


def test_options_stand_before_or_after_the_verb() -> None:
    for line in (
        "--json --socket /s show web",
        "show web --json --socket=/s",
        "--json show --socket /s -- web",
    ):
        parsed = parse(line.split())
        assert parsed.verb is not None
        assert (parsed.verb.name, parsed.arguments, parsed.options) == (
            "show", ["web"], {"json": "", "socket": "/s"},
        )  # fmt: skip


def test_short_options_stand_together_and_with_their_value() -> None:
    assert parse(["-vN", "release", "web"]).options == {"verbose": "", "dry_run": ""}
    assert parse(["events", "-fn5"]).options == {"follow": "", "lines": "5"}


def test_name_that_begins_with_a_dash_can_be_said() -> None:
    assert parse(["show", "--", "-odd"]).arguments == ["-odd"]
    with pytest.raises(UsageError):
        parse(["show", "-odd"])


def test_no_daemon_is_a_sentence_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("list", "show web", "events -f", "release --all", "kill-switch on", "policy show"):
        assert main(["--socket", str(tmp_path / "none"), *verb.split()]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err == "xenwarden: xenwardend is not running\n  start it with: systemctl start xenwardend\n"


def test_version_needs_no_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", str(tmp_path / "none"), "version"]) == 0
    assert capsys.readouterr().out.startswith("xenwarden ")


def test_every_verb_runs_has_examples_and_says_its_json() -> None:
    assert list(RUN) == [verb.name for verb in VERBS]
    for verb in VERBS:
        assert verb.json
        for command, _what in verb.examples:
            words = command.partition(">")[0].split()
            assert words[0] == "xenwarden"
            parsed = parse(words[1:])
            assert parsed.verb is verb


def test_help_tells_every_verb_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in VERBS:
        assert verb.name in text
        assert main([verb.name, "--help"]) == 0
        own = capsys.readouterr().out
        assert all(flag in own for option in verb.options for flag in option.flags)
        assert all(command in own for command, _what in verb.examples)
        assert max(map(len, own.splitlines())) <= 100
    assert max(map(len, text.splitlines())) <= 80
    assert all(flag in text for option in GLOBAL_OPTIONS for flag in option.flags)


def test_policy_check_tells_the_line_and_default_is_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "default"]) == 0
    good = tmp_path / "good.yaml"
    good.write_text(capsys.readouterr().out)
    assert main(["policy", "check", str(good)]) == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text("levels:\n  level1_s: soon\n")
    assert main(["policy", "check", str(bad)]) == 1
    assert f"{bad}:2:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("made", "file"),
    [
        (manual.man_page, "dom0/man/xenwarden.8"),
        (manual.completion, "dom0/completion/xenwarden"),
        (manual.schema, "dom0/schema/xenwarden.json"),
    ],
    ids=["man", "completion", "schema"],
)
def test_files_made_from_the_table_are_up_to_date(made: object, file: str) -> None:
    assert callable(made)
    assert (ROOT / file).read_text() == made(), f"make it again: see {manual.__name__}"


@pytest.mark.parametrize("page", sorted((ROOT / "dom0/man").iterdir()), ids=lambda page: page.name)
def test_man_pages_have_no_warnings(page: Path) -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", str(page)], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("xenwarden li", ["list", "limits", "limit"]),
        ("xenwarden --json sh", ["show"]),
        ("xenwarden show ", ["Domain-0", "mallory"]),
        ("xenwarden show m", ["mallory"]),
        ("xenwarden kill-switch o", ["on", "off"]),
        ("xenwarden policy ", ["show", "check", "default"]),
        ("xenwarden events --fo", ["--follow"]),
        ("xenwarden release --a", ["--all"]),
        ("xenwarden events -n ", []),
        ("xenwarden limit --cap 50 m", ["mallory"]),
        ("xenwarden limit m --vif-", ["--vif-rate", "--vif-in", "--vif-pps"]),
        ("xenwarden limit --for ", []),
        ("xenwarden list ", []),
    ],
)
def test_completion_in_a_real_bash(tmp_path: Path, line: str, offered: list[str]) -> None:
    fake = tmp_path / "xenwarden"
    fake.write_text("#!/bin/sh\necho 'Name  ID'\necho 'Domain-0  0'\necho 'mallory  1'\n")
    fake.chmod(0o755)
    words = line.split(" ")
    script = (
        f"source {ROOT}/dom0/completion/xenwarden; PATH={tmp_path}:$PATH; "
        f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; _xenwarden; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], check=False, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.split() == offered


def test_policy_check_in_json_is_as_its_schema_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--json", "policy", "check", str(tmp_path / "none.yaml")])
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert answer["errors"]
    schema = json.loads(manual.schema())["$defs"]["policy"]
    jsonschema.validate(answer, {**schema, "additionalProperties": False})


# --- where the output goes -----------------------------------------------------------------------------


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell line in which `$X` is the command."""
    command = f"{sys.executable} -c 'import sys; from xenwarden_host.cli.main import main; sys.exit(main())'"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script.replace("$X", command)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "dom0"), **environment},
    )


@pytest.mark.parametrize("words", ["--help", "list --help", "policy default", "version", "--json version"])
@pytest.mark.parametrize(
    ("where", "said"),
    [("| true", ""), (">&-", ""), ("> /dev/full", "xenwarden: cannot write: No space left on device\n")],
    ids=["reader-gone", "closed", "disk-full"],
)
def test_output_that_goes_nowhere_is_no_traceback(words: str, where: str, said: str) -> None:
    assert shell(f"$X {words} {where}").stderr == said


def test_locale_that_lacks_a_letter_gets_a_question_mark(tmp_path: Path) -> None:
    done = shell(f"$X policy check '{tmp_path}/büro'", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.stderr.startswith(f"xenwarden: {tmp_path}/b??ro: cannot be read")


WHY = "TCP SYN without ACK sent: 5,000/s, usual is up to 99.6/s; 98 % of packets sent are TCP SYN without ACK"
LONG = "a-very-long-name-of-a-virtual-machine-that-exists"


def test_table_fits_a_terminal_and_is_whole_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    header, rows = ("Name", "Value", "Why"), [("büro-日本語", 10.0, WHY), (LONG, 1234.5, WHY)]
    whole = output.table(header, rows)
    assert WHY in whole
    assert LONG in whole
    monkeypatch.setattr(output, "_terminal_columns", lambda: 80)
    narrow = output.table(header, rows)
    assert max(map(len, narrow.splitlines())) <= 80
    assert " ".join(narrow.split()).count("98 % of packets sent") == 2
    assert "büro-日本語  " in narrow
    monkeypatch.setattr(output, "_terminal_columns", lambda: 400)
    assert output.table(header, rows) == whole


def test_last_column_stands_below_where_it_has_too_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    header = ("Name", "Limit", "Decided", "Set", "Read back", "Before", "State", "Owner", "Until", "Why")
    row = ("mallory", "vif-pps/syn", 10, "0=10", "0=10", "none", "set", "hsem", "-", WHY)
    monkeypatch.setattr(output, "_terminal_columns", lambda: 80)
    first, second, third, *why = output.table(header, [row]).splitlines()
    assert first.split()[-1] == "Until"
    assert second == "    Why"
    assert third.split()[:2] == ["mallory", "vif-pps/syn"]
    assert " ".join(why).split() == WHY.split()
    assert max(map(len, (first, third, *why))) <= 80


def test_wide_letters_and_marks_keep_the_columns_straight() -> None:
    lines = output.table(("Name", "ID"), [("日本語", 1), ("e\u0301te\u0301", 2), ("abcdef", 3)]).splitlines()
    assert lines == ["Name    ID", "日本語   1", "e\u0301te\u0301      2", "abcdef   3"]


@pytest.mark.parametrize("words", [["list"], ["--json", "list"]])
def test_list_loads_nothing_that_costs(tmp_path: Path, words: list[str]) -> None:
    """A command's time is its imports; json and socket alone would double it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen(1)
    listener.settimeout(30)  # a command that fails at once never connects
    answer = {"vms": [], "notices": ["a sentence"], "kill_switch": None, "daemon": {"up_s": 1.5}}
    code = (
        "import sys; from xenwarden_host.cli.main import main; main(sys.argv[1:]); "
        "print(*sys.modules, file=sys.stderr)"
    )
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", code, "--socket", str(tmp_path / "s"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT / "dom0"), "PATH": ""},
        text=True,
    )
    connection, _address = listener.accept()
    assert json.loads(connection.recv(4096)) == {"do": "list"}
    connection.sendall(json.dumps({"ok": True, "result": answer}).encode() + b"\n")
    out, err = process.communicate(timeout=30)
    connection.close()
    listener.close()
    assert process.returncode == 0
    assert out.startswith("Name  ID") if words == ["list"] else json.loads(out) == answer
    costly = {"enum", "re", "json", "socket", "typing", "collections", "contextlib", "functools", "pathlib"}
    costly |= {"argparse", "dataclasses", "sqlite3", "textwrap", "yaml", "_cffi_backend", "xenwarden_channel"}
    assert not costly & set(err.split())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_lean_json_writes_and_reads_as_the_library_does(value: object) -> None:
    assert lean.dumps(value) == json.dumps(value)
    assert lean.dumps(value, indent=2) == json.dumps(value, indent=2)
    assert lean.loads(json.dumps(value)) == value


@pytest.mark.parametrize("text", ["", "x", "[", '{"a": }', '"\\ud"', '"' + "\n" + '"'])
def test_lean_json_refuses_what_the_library_refuses(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  each parser has its own words
        lean.loads(text)
