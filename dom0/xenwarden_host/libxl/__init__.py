# SPDX-License-Identifier: LGPL-2.1-or-later
"""libxenlight for Python: private C module, error table, and `xenlight.Xenlight` above them."""
