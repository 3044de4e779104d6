# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guest agent of xenwarden: VSEM (security) and VREM (reliability) of one VM, dom0 included."""

__version__ = "0.1.0"
