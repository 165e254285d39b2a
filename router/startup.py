"""What a process that serves does once: before a verb is loaded, and when all is in place."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from typing import Final

GC_THRESHOLD: Final = 100_000
"""Objects between two collections while modules are loaded: nearly all of them stay, so there is little to find."""

SERVING_GC_THRESHOLD: Final = 50_000
"""Objects between two collections while calls are served."""

KEPT_BYTES: Final = 32 * 1024 * 1024
"""Free memory at the end of the heap that glibc keeps. Its own 128 KiB are given back, and faulted in again page by page, at every
request of 180 KB: up to 24 page faults, a twentieth of its time (measured 2026-11). 32 such requests at once need less."""

MAPPED_BYTES: Final = 4 * 1024 * 1024
"""Blocks from this size on are mapped, and given back when they are freed: images and files, which are rare."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def settle_down() -> None:
    """Let no collection look again at what has been made so far: it stays as long as the process, which serves from now on."""
    keep_memory()
    gc.collect()
    gc.freeze()
    gc.set_threshold(SERVING_GC_THRESHOLD)


def keep_memory() -> None:
    """Have glibc keep what is freed between requests; other C libraries are left as they are."""
    try:
        # No other verb needs it, and it is missing where Python was built without libffi.
        from ctypes import CDLL

        mallopt = CDLL(None).mallopt
    except (ImportError, AttributeError, OSError, TypeError):
        return
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)


def hurry() -> None:
    """Spare this process the work of loading what no verb uses."""
    gc.set_threshold(GC_THRESHOLD)
    # pydantic would look for plugins in every distribution that is installed, 30 ms, and run what it finds.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        _load_structlog_without_rich()


def _load_structlog_without_rich() -> None:
    """structlog loads rich, 50 modules, wherever it is installed: for coloured logs, which are never written here."""
    # "If the value is None, ModuleNotFoundError is raised": Python's language reference, section 5.3.1.
    # typeshed knows modules only.
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("structlog")
    finally:
        del sys.modules["rich"]
