# SPDX-License-Identifier: LGPL-2.1-or-later
"""dom0 part of xenwarden: HSEM decides, HREM watches, limits are set and restored."""

__version__ = "0.1.0"
