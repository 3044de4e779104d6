# SPDX-License-Identifier: LGPL-2.1-or-later
"""HSEM decides whether a VM is attacker, victim or neither. Pure: no Xen, no store, no clock, no file."""
