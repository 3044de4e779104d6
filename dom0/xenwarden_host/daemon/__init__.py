# SPDX-License-Identifier: LGPL-2.1-or-later
"""xenwardend: the shell around the pure core. It reads, asks HREM and HSEM, and applies."""
