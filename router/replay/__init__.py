"""What was decided, again: traces of decisions in the books, replays under another configuration, drills."""

from typing import Final

SPREAD: Final = 2.0**20
"""Of a draw times this, the fraction is a number in [0, 1) by bits that choices hardly use."""
