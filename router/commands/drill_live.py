"""`faregate drill --live`: take a vendor out for a while, watch, and bring it back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import msgspec
import typer

from router.adapters.choose import must_exist, store_of, visiting
from router.books.reading import read_open
from router.commands.changes import operator
from router.controls import ControlError, Desk
from router.domain.records import SpendRecord
from router.errors import ConfigError, StoreUnavailable
from router.ports import Ledger
from router.replay.outage import Stretch, stretch_of, table_of
from router.replay.report import as_text
from router.replay.requests import read_requests
from router.snapshot import Snapshot

LOOK_SECONDS: Final = 5.0
"""How often it is looked whether requests fail."""
SPARE_MS: Final = 60_000
"""The drains end by themselves so long after the drill should have taken them back: if this command is killed, for one."""
FEWEST: Final = 20
"""Requests before their share of answers says anything."""


class Lived(msgspec.Struct, kw_only=True):
    """What a live drill says."""

    drained: list[str]
    seconds: float
    before: Stretch
    """In a time of the same length before."""
    during: Stretch
    given_up: bool = False
    """It was ended early, because too few requests were answered."""


def targets_of(snapshot: Snapshot, gone: Iterable[str]) -> list[str]:
    """What to drain so that exactly these deployments are out: providers as a whole where all of theirs are."""
    out = frozenset(gone)
    found = dict[str, None]()
    for name in sorted(out):
        provider = snapshot.deployments[name].provider.name
        whole = all(one in out for one, each in snapshot.deployments.items() if each.provider.name == provider)
        found[provider if whole else name] = None
    return list(found)


def live(snapshot: Snapshot, gone: Iterable[str], *, seconds: float, reason: str, least: float) -> Lived:
    """Drain, wait, look, and take it back, also when it is interrupted.

    Raises:
        ConfigError: the ledger cannot be reached.
        typer.BadParameter: something is drained already, or nothing says why.
    """

    async def do() -> Lived:
        async with visiting(must_exist(store_of(snapshot))) as ledger:
            return await _Drill(ledger, targets_of(snapshot, gone), least).run(seconds, reason)

    return asyncio.run(do())


def report(told: Lived) -> str:
    """For people."""
    notes = [f"Live, without {', '.join(told.drained)} for {told.seconds:.0f} s, beside the {told.seconds:.0f} s before:"]
    if told.given_up:
        notes.append("Ended early: too few requests were answered.")
    notes.append("Requests that were refused before any call are in no record: see faregate_requests_total.")
    return as_text(notes, [table_of(told.before, told.during)])


class _Drill:
    def __init__(self, ledger: Ledger, targets: list[str], least: float) -> None:
        self._ledger = ledger
        self._targets = targets
        self._least = least
        self._desk = Desk(ledger.control_store(), who=operator(), via="command")

    async def run(self, seconds: float, reason: str) -> Lived:
        drained = {each.target: each.reason for each in (await self._desk.state()).of_kind("drain")}
        for target in self._targets:
            if target in drained:
                raise typer.BadParameter(f"{target} is drained already ({drained[target]})", param_hint="--live")
        begin, begin_ms = time.monotonic(), int(time.time() * 1000)
        until_ms = (await self._ledger.control_store().look())[1] + round(seconds * 1000) + SPARE_MS
        given_up = False
        try:
            for target in self._targets:
                await self._desk.drain(target, reason=f"drill: {reason}", until_ms=until_ms)
            typer.echo(f"{', '.join(self._targets)}: out for {seconds:.0f} s. Ctrl-C brings it back.", err=True)
            while (left := begin + seconds - time.monotonic()) > 0 and not given_up:
                await asyncio.sleep(min(left, LOOK_SECONDS))
                given_up = self._is_bad((await self._stretches(begin_ms, int(time.time() * 1000)))[1])
        except asyncio.CancelledError:
            typer.echo("interrupted", err=True)
        except ControlError as error:
            raise typer.BadParameter(str(error), param_hint="--live") from None
        finally:
            await self._bring_back()
        end_ms = int(time.time() * 1000)
        before, during = await self._stretches(begin_ms, end_ms)
        lasted = (end_ms - begin_ms) / 1000
        return Lived(drained=self._targets, seconds=lasted, before=before, during=during, given_up=given_up)

    def _is_bad(self, during: Stretch) -> bool:
        share = during.answered_share
        return share is not None and during.requests >= FEWEST and share < self._least

    async def _bring_back(self) -> None:
        for target in self._targets:
            # One that was not made, or was taken back by somebody else.
            with suppress(ControlError):
                try:
                    await self._desk.undrain(target, reason="the drill is over")
                except StoreUnavailable as error:
                    raise ConfigError(f"{target} is drained still, for a minute at most after the drill: {error}") from None

    async def _stretches(self, begin_ms: int, end_ms: int) -> tuple[Stretch, Stretch]:
        """Before and during."""
        records: list[SpendRecord] = []
        await read_open(self._ledger, records.append, since_ms=2 * begin_ms - end_ms)
        requests = read_requests(records)
        return stretch_of(requests, 2 * begin_ms - end_ms, begin_ms), stretch_of(requests, begin_ms, end_ms)
