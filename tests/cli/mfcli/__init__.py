# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of the command and the service stand on."""
