"""The port of signals: what a detector of an operator's own is."""

from __future__ import annotations

from collections.abc import Callable

Plugin = Callable[[str], object]
"""A detector of the operator's own for a signal: reads a text, and returns what it found.

`pii` is given all texts that are sent, and returns the names of classes; the others are given the last message of the user, and
return a task, a language code or a number from 0 to 1. None: it cannot tell. It may be a generator function: whatever waits for the
same thread may go on at each `yield`, and what it yields for `pii` is found, too. It is called by one thread of a process at a time.
Whatever it raises leaves the signal unknown.
"""
