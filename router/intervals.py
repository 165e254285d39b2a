"""How often a process does what it does beside serving, in seconds."""

from __future__ import annotations

from typing import Final

READY: Final = 1.0
"""How long an answer of the store to `ping` is good for `/readyz`."""
WATCH: Final = 1.0
"""How often a store that is away is looked for."""
KEYS: Final = 10.0
PAUSES: Final = 2.0
"""How soon all workers know that a session is paused, or goes on."""
AUDIT: Final = 60.0
"""How often counters and log are compared: well within the time that the ledger waits for an auditor to come back."""
TRIM: Final = 3600.0
PRICES: Final = 1.0
STORE_START: Final = 15.0
"""How long a store that does not answer is waited for at the start."""
ALERTS: Final = 5.0
"""How often to look whether anybody is to be told of anything."""
