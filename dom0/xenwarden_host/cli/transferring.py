# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden export` and `import`: these need root and no daemon."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from xenwarden_host import transfer
from xenwarden_host.daemon.main import CONFIG, STATE_DIR
from xenwarden_host.errors import XenwardenError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from xenwarden_host.cli.parser import Parsed


def _places(parsed: Parsed) -> tuple[Path, Path]:
    return (
        Path(parsed.options.get("state_dir", STATE_DIR)),
        Path(parsed.options.get("config", CONFIG)),
    )


def export(parsed: Parsed) -> int:
    """Print the state."""
    json.dump(transfer.export(*_places(parsed)), sys.stdout, indent=1)
    print()
    return 0


def restore(parsed: Parsed) -> dict[str, Any]:
    """Take a state from a file, or from standard input; return what was taken."""
    name = parsed.arguments[0]
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as problem:
        raise XenwardenError(f"cannot read {name}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise XenwardenError(f"cannot read {name}: it is no text") from None
    return transfer.restore(text, *_places(parsed), dry_run="dry_run" in parsed.options)
