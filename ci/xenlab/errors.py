# SPDX-License-Identifier: LGPL-2.1-or-later
"""Errors that a user of the lab can be shown."""

from __future__ import annotations


class LabError(Exception):
    """A failure with one sentence for the user, what to do about it, and output worth reading."""

    def __init__(self, message: str, hint: str = "", output: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.output = output


class ScenarioError(LabError):
    """A scenario file is not what it should be; the message starts with `file:line:`."""
