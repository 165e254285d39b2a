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


def settle_down() -> None:
    """Let no collection look again at what has been made so far: it stays as long as the process, which serves from now on."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(SERVING_GC_THRESHOLD)


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
