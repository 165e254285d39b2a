"""How much the state machines are to try."""

from __future__ import annotations

import os
from typing import Final

EXAMPLES: Final = int(os.environ.get("FAREGATE_TEST_EXAMPLES", "1"))
"""So many times the usual number of examples, other ones each time; 1: always the same ones."""
