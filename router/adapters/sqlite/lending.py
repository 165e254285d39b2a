"""Handing a part of one hold over to another attempt in the same windows. What is held in all stays the same."""

from __future__ import annotations

from router.adapters.sqlite.counters import Attempt, Units


def lend(lender: Attempt | None, borrower: Attempt | None, *, total: int, replica: str, note: bytes) -> Attempt | None:
    """The borrower with as much of the lender's hold as it needs to have `total`; None: nothing is handed over.

    A lender that was swept hands over what it was charged: the borrower counts as swept, and settling it corrects that.
    """
    if lender is None or lender.state not in ("H", "X") or (borrower is not None and borrower.state in ("S", "V")):
        return None
    swept = lender.state == "X"
    has = 0 if borrower is None else borrower.held + borrower.charged
    by = min(total - has, lender.charged if swept else lender.held)
    if by <= 0:
        return None
    if borrower is None:
        borrower = Attempt(lender.state, 0, 0, 0, 0, replica, lender.buckets, note, None)
        borrower.done_ms = lender.done_ms
    elif not swept:
        borrower.state, borrower.done_ms = "H", None
    _move_units(lender, borrower, by)
    borrower.amount += by
    if swept:
        lender.charged -= by
        borrower.charged += by
    else:
        lender.held -= by
        borrower.held += by
    return borrower


def _move_units(lender: Attempt, borrower: Attempt, by: int) -> None:
    """What is handed over stays in the moment in which the lender held it: a lender is held in one piece."""
    at_ms = 0
    if lender.units is not None:
        at_ms, amount = lender.units.pieces[0]
        lender.units.pieces[0] = (at_ms, amount - by)
        if borrower.units is None:
            borrower.units = Units(0, 0, 0, lender.units.state, [])
    if borrower.units is not None:
        borrower.units.pieces.append((at_ms, by))
