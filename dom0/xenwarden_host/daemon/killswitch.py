# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kill switch: a file that, while it is there, has every limit released and none set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenwarden_host.errors import XenwardenError

if TYPE_CHECKING:
    from pathlib import Path


class KillSwitch:
    """The switch's files: `run_file` is the command's and goes with a reboot; `etc_file` stays."""

    def __init__(self, run_file: Path, etc_file: Path) -> None:
        self._run_file = run_file
        self._etc_file = etc_file

    def engaged_by(self) -> Path | None:
        """Return the file that engages the switch, None where none is there."""
        return next((path for path in (self._etc_file, self._run_file) if path.exists()), None)

    def engage(self) -> None:
        """Make the file.

        Raises:
            XenwardenError: it cannot be made.
        """
        try:
            self._run_file.touch(mode=0o600)
        except OSError as error:
            raise XenwardenError(f"cannot make {self._run_file}: {error.strerror}") from error

    def disengage(self) -> None:
        """Remove the file.

        Raises:
            XenwardenError: the admin's own file in /etc is there, which no command removes.
        """
        self._run_file.unlink(missing_ok=True)
        if self._etc_file.exists():
            raise XenwardenError(
                f"{self._etc_file} keeps the kill switch on", hint=f"remove it by hand: rm {self._etc_file}"
            )
