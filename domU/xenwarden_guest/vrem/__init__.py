# SPDX-License-Identifier: LGPL-2.1-or-later
"""VREM, the reliability monitor: how loaded the VM is and how near its limits."""
