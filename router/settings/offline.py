"""A configuration for a look at its policies: secrets need not be there, because nothing is sent."""

from __future__ import annotations

import os
import re
from typing import Final

from router.errors import ConfigError
from router.settings import load_snapshot
from router.snapshot import Snapshot

_NOT_SET: Final = re.compile(r"environment variable ([A-Za-z_][A-Za-z0-9_]*) is not set")
_ROUNDS: Final = 4
"""What stands in a section that could not be read before may need further variables."""


def load_offline(path: str | None) -> Snapshot:
    """As `load_snapshot`, but variables that are not set stand for some text.

    Raises:
        ConfigError: the file cannot be read or has other errors.
    """
    environ = dict(os.environ)
    for _ in range(_ROUNDS):
        try:
            return load_snapshot(path, environ=environ)
        except ConfigError as error:
            missing = set(_NOT_SET.findall(str(error))) - environ.keys()
            if not missing:
                raise
            # Different ones: the same secret for two keys is an error.
            environ |= {name: f"not-set-{name.lower()}-0000000000000000" for name in missing}
    return load_snapshot(path, environ=environ)
