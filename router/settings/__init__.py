"""The configuration: YAML with places, validated, compiled to a snapshot. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router.snapshot import Snapshot


def load_snapshot(path: str | None, *, environ: Mapping[str, str] = os.environ) -> Snapshot:
    """The snapshot of a configuration file; without one, of what is found in the environment and on loopback.

    Args:
        path: the file; None: `FAREGATE_CONFIG`, else discovery.
        environ: variables that references and presets read.

    Raises:
        ConfigError: the file cannot be read or has errors; all of them, one a line.
    """
    from router.settings.env import CONFIG

    path = path or environ.get(CONFIG) or None
    if path is None:
        from router.settings.discover import discover_snapshot

        return discover_snapshot(environ=environ)
    from router.settings.load import load_file

    return load_file(path, environ=environ).snapshot
