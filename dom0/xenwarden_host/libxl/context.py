# SPDX-License-Identifier: LGPL-2.1-or-later
"""One libxl context: made, checked, closed, with the structures that are filled through it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xenwarden_host.errors import HypervisorError
from xenwarden_host.libxl import binding
from xenwarden_host.libxl.errors import error

if TYPE_CHECKING:
    from collections.abc import Iterator


class Context:
    """One `libxl_ctx` with its logger. libxl locks it during a call: a slow call needs its own.

    Raises:
        HypervisorError: Xen is not running here, or we may not speak to it.
    """

    def __init__(self) -> None:
        self.ffi, self.lib = binding.load()
        logger = self.lib.xw_logger(self.lib.XTL_WARN)
        if not logger:
            raise error("xtl_createlogger_stdiostream", -5)
        self._logger: Any = self.ffi.gc(logger, self.lib.xtl_logger_destroy)
        out = self.ffi.new("libxl_ctx **")
        code = self.lib.libxl_ctx_alloc(out, self.lib.LIBXL_VERSION, 0, self._logger)
        if code:
            failed = error("libxl_ctx_alloc", code)
            raise HypervisorError(
                "cannot speak to Xen: this is not a running dom0, or not root in it",
                failed.code,
                "boot under Xen, load xen-privcmd, start xenstored, and run as root",
            )
        self._ctx: Any = out[0]
        self.lib.xw_own_children(self._ctx)

    @property
    def ctx(self) -> Any:
        """The C pointer; a bug where the context was closed."""
        if self._ctx is None:
            raise RuntimeError("libxl context used after close")
        return self._ctx

    def close(self) -> None:
        """Free the context and its logger; again does nothing."""
        if self._ctx is not None:
            self.lib.libxl_ctx_free(self._ctx)
            self._ctx = None
            self.ffi.release(self._logger)

    @contextmanager
    def struct(self, name: str) -> Iterator[Any]:
        """Give an initialised libxl structure of type `name`, and dispose of what libxl put in it."""
        thing = self.ffi.new(f"{name} *")
        getattr(self.lib, f"{name}_init")(thing)
        try:
            yield thing
        finally:
            getattr(self.lib, f"{name}_dispose")(thing)
