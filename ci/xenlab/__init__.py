# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab: real Xen in QEMU, guests, and scenarios that attack and expect."""
