# SPDX-License-Identifier: LGPL-2.1-or-later
"""HREM is what dom0 knows of its VMs for itself: its own counters, and the one history of all signals."""
