# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parse a command line by the table of verbs. Not argparse: its import takes longer than `list`."""

from __future__ import annotations

from xenwarden_host.cli.verbs import BY_NAME, GLOBAL_OPTIONS, VERBS, Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class UsageError(Exception):
    """The command line is wrong: a sentence, and the command that helps."""

    def __init__(self, message: str, verb: Verb | None = None) -> None:
        super().__init__(message)
        self.hint = f"see: xenwarden {verb.name} --help" if verb else "see: xenwarden --help"


class Parsed:
    """A command line: the verb (None with a bare `--help`), its arguments in order, options by name."""

    __slots__ = ("arguments", "options", "verb")

    def __init__(self, verb: Verb | None, arguments: list[str], options: dict[str, str]) -> None:
        self.verb = verb
        self.arguments = arguments
        self.options = options


def parse(words: list[str]) -> Parsed:
    """Parse the words after the command's name. Global options may stand before or after the verb.

    Raises:
        UsageError: what is wrong, in a sentence.
    """
    verb: Verb | None = None
    arguments: list[str] = []
    options: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if word == "--":
            arguments.extend(rest)
        elif word.startswith("-") and word != "-":
            _take_option(word, rest, verb, options)
        elif verb is None:
            verb = _verb(word)
        else:
            arguments.append(word)
    if "help" in options:
        return Parsed(verb, [], options)
    if verb is None:
        raise UsageError(f"which verb? one of {', '.join(item.name for item in VERBS)}")
    _check(verb, arguments, options)
    return Parsed(verb, arguments, options)


def _verb(word: str) -> Verb:
    if word in BY_NAME:
        return BY_NAME[word]
    raise UsageError(f"no verb {word!r}" + _near("--help" if word == "help" else word, [*BY_NAME, "--help"]))


def _near(word: str, known: Sequence[str]) -> str:
    """Return which of the known words may have been meant, as the end of a sentence."""
    from difflib import get_close_matches  # noqa: PLC0415  only who mistypes pays for it

    near = get_close_matches(word.lower(), known)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _take_option(word: str, rest: Iterator[str], verb: Verb | None, options: dict[str, str]) -> None:
    known: tuple[Option, ...] = (*(verb.options if verb else ()), *GLOBAL_OPTIONS)
    flag, equals, value = word.partition("=") if word.startswith("--") else (word[:2], word[2:], word[2:])
    option = next((item for item in known if flag in item.flags), None)
    if option is None:
        where = f"{verb.name} has" if verb else "there is"
        if word in ("--version", "-V"):
            near = "; did you mean the verb version?"
        else:
            near = _near(flag, [name for item in known for name in item.flags if name.startswith("--")])
        raise UsageError(f"{where} no option {flag}{near}", verb)
    if not option.metavar:
        if equals and not word.startswith("--"):  # -vN is -v -N, as with xl
            options[option.name] = ""
            _take_option(f"-{value}", rest, verb, options)
            return
        if equals:
            raise UsageError(f"{flag} takes no value", verb)
        options[option.name] = ""
        return
    if not equals:
        value = next(rest, "")
    if not value:
        raise UsageError(f"{flag} needs a value: {flag} {option.metavar}", verb)
    options[option.name] = value


def _check(verb: Verb, arguments: list[str], options: dict[str, str]) -> None:
    if len(arguments) > len(verb.arguments) and not (verb.arguments and verb.arguments[-1].many):
        raise UsageError(f"{verb.name} takes no {arguments[len(verb.arguments)]!r}", verb)
    for index, argument in enumerate(verb.arguments):
        if index >= len(arguments):
            if argument.required:
                raise UsageError(f"{verb.name} needs {argument}", verb)
        elif not all(arguments[index:]):
            raise UsageError(f"{verb.name} needs {argument}, not an empty word", verb)
        elif argument.choices and arguments[index] not in argument.choices:
            raise UsageError(f"{verb.name} takes {argument}, not {arguments[index]!r}", verb)
    if "dry_run" in options and not verb.changes:
        raise UsageError(f"{verb.name} changes nothing: -N has no meaning", verb)
    if verb.name == "release" and ("all" in options) == bool(arguments):
        raise UsageError("release needs a DOMAIN or --all", verb)
    takes_file = verb.name == "policy" and arguments[0] != "show"
    if takes_file and (arguments[0] == "check") != (len(arguments) == 2):
        raise UsageError(f"policy {arguments[0]} takes {'a' if arguments[0] == 'check' else 'no'} FILE", verb)
    if verb.name == "policy" and arguments[0] == "default" and "json" in options:
        raise UsageError("policy default is YAML with its reasons: --json has no meaning", verb)
    if verb.name == "record" and "output" not in options:
        raise UsageError("record needs -o FILE", verb)
    if verb.name == "report" and ("output" in options) == ("json" in options):
        raise UsageError("report needs -o FILE, or --json", verb)
    lines = options.get("lines", "1")
    if not (lines.isascii() and lines.isdigit() and len(lines) < 10):
        raise UsageError("--lines needs a number", verb)
