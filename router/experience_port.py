"""The port of what processes have learned: small rows in the ledger's store, one for each process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class ExperienceStore(Protocol):
    """Rows by name. Raises `StoreUnavailable` from every method."""

    async def rows(self) -> tuple[int, Mapping[str, bytes]]:
        """The store's clock, Unix ms, and all rows."""
        ...

    async def put(self, name: str, row: bytes, *, instead_of: Mapping[str, bytes]) -> bool:
        """Write a row, and drop those of other names that are given here, in one step.

        `instead_of`: what the rows must be now; the row of `name` must not be there if it is not given. False: one is another by
        now, and nothing was written.
        """
        ...
