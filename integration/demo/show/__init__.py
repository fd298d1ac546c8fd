# SPDX-License-Identifier: LGPL-2.1-or-later
"""The demo, after the packages are there.

__main__   the command line, and what happens when it is stopped
building   builds memferry and the guest
story      two hosts, a guest, three moves
display    the live line and the table
"""
