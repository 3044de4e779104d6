# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the admin wants: every threshold, limit, role and profile. `defaults.yaml` documents them all."""
