# SPDX-License-Identifier: LGPL-2.1-or-later
"""Benchmarks, one module per group; `run() -> list[Figure]` measures each peer in the same run."""
