# SPDX-License-Identifier: LGPL-2.1-or-later
"""Coverage-guided fuzzing, one module per group; the corpus is replayed by the tests."""
