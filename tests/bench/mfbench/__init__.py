# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parts of tests/bench/run. What boots, follows and moves the test guest comes from tests/vm/mfvm."""
import os
import sys

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.path.insert(0, os.path.join(TREE, "tests", "vm"))
