"""Alerts: what people are told of without looking, once, by HTTP, chat or mail. Never on the path of a request.

Whatever notices something calls `emit`; without receivers in the configuration nothing listens and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable

from router.alerts.events import Event

__all__ = ["Event", "emit", "listen"]

_listeners: list[Callable[[Event], None]] = []


def emit(event: Event) -> None:
    """Hand an event to the service of this process; it is told once, over all replicas. Returns at once, from any stage."""
    for listener in _listeners:
        listener(event)


def listen(listener: Callable[[Event], None]) -> Callable[[], None]:
    """Call `listener` for every event from now on. Returns what ends that."""
    _listeners.append(listener)

    def end() -> None:
        if listener in _listeners:
            _listeners.remove(listener)

    return end
