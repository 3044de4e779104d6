# SPDX-License-Identifier: LGPL-2.1-or-later
"""Benchmarks, one module per group; each has `run() -> list[Figure]` and measures its peer in the same run."""
