# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden`: exit status 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import os
import sys

from xenwarden_host.cli.parser import UsageError, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default the process's own; return the exit status."""
    try:
        parsed = parse(list(sys.argv[1:] if argv is None else argv))
    except UsageError as error:
        return _fail(str(error), error.hint, 2)
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
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `xenwarden events -f | head`: the reader has enough. Python would complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _fail(message: str, hint: str | None, status: int) -> int:
    print(f"xenwarden: {message}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
