# SPDX-License-Identifier: LGPL-2.1-or-later
"""Load the C module, or say in a sentence why it cannot be loaded.

libxl's soname changes with every release of Xen, so that a module built against one never loads
another by mistake: the dynamic linker refuses, and we say which release is needed.
"""

from __future__ import annotations

import re
from typing import Any

from xenwarden_host.errors import HypervisorError

_SONAME = re.compile(r"libxenlight\.so\.([0-9.]+)")


def load() -> tuple[Any, Any]:
    """Return `(ffi, lib)` of the C module.

    Raises:
        HypervisorError: code `ERROR_VERSION` where the libxl that it was built for is not installed,
            `ERROR_NI` where the module itself is missing.
    """
    try:
        from xenwarden_host.libxl._xenlight import ffi, lib  # noqa: PLC0415 - loading it is what may fail
    except ImportError as problem:
        raise explain(problem) from problem
    return ffi, lib


def explain(problem: ImportError) -> HypervisorError:
    """Return the sentence for a C module that did not load."""
    needed = _SONAME.search(str(problem))
    if needed:
        return HypervisorError(
            f"xenwarden was built for Xen {needed[1]} and cannot use the libxl of another release: {problem}",
            "ERROR_VERSION",
            f"install Xen {needed[1]}'s libraries, or build xenwarden-host against the Xen that runs here",
        )
    return HypervisorError(
        f"the libxl binding does not load: {problem}",
        "ERROR_NI",
        "install the xenwarden-host wheel; from a source tree, build it first (libxen-dev and a C compiler)",
    )
