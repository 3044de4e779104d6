# SPDX-License-Identifier: LGPL-2.1-or-later
"""Errors that a user can be shown. Everything else that is raised is a bug."""

from __future__ import annotations


class XenwardenError(Exception):
    """A failure with a sentence for the user and, where there is one, what to do about it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(XenwardenError):
    """A file is not what it should be; the message starts with `file:line:`."""


class HypervisorError(XenwardenError):
    """A libxl call failed. `code` is libxl's name of the error, such as `ERROR_NOMEM`."""

    def __init__(self, message: str, code: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.code = code


class DomainGoneError(HypervisorError):
    """The domain died between listing and calling: a normal state."""


class LimitError(XenwardenError):
    """A limit could not be set, read back or removed. `state` is the named state that list and show tell."""

    def __init__(self, message: str, state: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.state = state
