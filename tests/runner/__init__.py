# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds memferry in every way that it is tested in, runs all tests, and counts."""
