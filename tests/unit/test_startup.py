"""What a process that serves does once."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from router.startup import KEPT_BYTES, MAPPED_BYTES, keep_memory


def test_freed_memory_is_kept_between_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long bodies come one after the other: their pages are not given back in between. The numbers are those of malloc.h."""
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda *option: told.append(option)))
    keep_memory()
    assert told == [(-1, KEPT_BYTES), (-3, MAPPED_BYTES)]


def test_a_c_library_without_such_options_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """musl and macOS have none: a worker starts there all the same."""
    asked: list[object] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: asked.append(name) or SimpleNamespace())
    keep_memory()
    assert asked == [None]
