"""`faregate schema`: the JSON schema of the configuration."""

from __future__ import annotations

import sys


def command() -> None:
    """Print the JSON schema of the configuration, for editors and other tools."""
    from router.settings.schema import schema_text

    sys.stdout.write(schema_text())
