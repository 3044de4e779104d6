# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build the libxl binding. Everything else about the distribution is in pyproject.toml.

The module uses only Python's stable ABI, so a wheel built by any Python from 3.11 on runs on all of
them. It is bound to one release of Xen all the same: libxl changes its soname with each.
"""

from __future__ import annotations

from setuptools import setup

setup(
    cffi_modules=["xenwarden_host/libxl/_build.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
