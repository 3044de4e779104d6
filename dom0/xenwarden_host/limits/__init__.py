# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits on VMs: wanted by HSEM and operators, set, read back, and restored exactly."""
