# SPDX-License-Identifier: LGPL-2.1-or-later
"""The `xenwarden` command. Light to import: it starts for each line that an admin types."""
