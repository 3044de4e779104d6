# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden`: exit status 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

from xenwarden_host.cli.output import printable
from xenwarden_host.cli.parser import UsageError, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from xenwarden_host.cli.parser import Parsed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default the process's own; return the exit status."""
    _mend_streams()
    try:
        parsed = parse(list(sys.argv[1:] if argv is None else argv))
    except UsageError as error:
        return _fail(str(error), error.hint, 2)
    try:
        status = _run(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `xenwarden events -f | head`: the reader has enough.
        _discard_output()
        return 1
    except OSError as error:
        _discard_output()
        return _fail(f"cannot write: {error.strerror}", None, 1)
    return status


def _run(parsed: Parsed) -> int:
    if "help" in parsed.options:
        from xenwarden_host.cli import help as help_text  # noqa: PLC0415  not needed by what runs often

        print(help_text.of_verb(parsed.verb) if parsed.verb else help_text.overview())
        return 0
    from xenwarden_host.cli.commands import RUN  # noqa: PLC0415  a wrong usage need not load the client
    from xenwarden_host.control.client import RefusedError  # noqa: PLC0415  likewise
    from xenwarden_host.errors import XenwardenError  # noqa: PLC0415  likewise

    assert parsed.verb is not None  # noqa: S101  parse says so
    try:
        return RUN[parsed.verb.name](parsed)
    except UsageError as error:
        return _fail(str(error), error.hint, 2)
    except (RefusedError, XenwardenError) as error:
        return _fail(error.message, error.hint, 1)


def _mend_streams() -> None:
    """Write to nowhere what was closed (`>&-`), and `?` for what the locale cannot write."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115  for good; pathlib is slow
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _discard_output() -> None:
    """Have Python not complain once more, when it flushes what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, hint: str | None, status: int) -> int:
    print(f"xenwarden: {printable(message)}", file=sys.stderr)
    if hint:
        print(f"  {printable(hint)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
