"""The requests of a log, as a replay needs them: who asked for what, what served it, and what that used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from policies.types import RequestFacts, Restriction
from router.domain.records import SpendRecord
from router.domain.rerate import usage_of
from router.domain.usage import Usage
from router.errors import ConfigError
from router.replay.trace import Trace, facts_of_record, read_trace, states_of

ANSWERED: Final = frozenset({"ok", "cut", "client_left"})
UNUSED: Final = frozenset({"refused_upstream", "voided"})
"""Outcomes of attempts that say nothing of what an answer takes."""
ASIDES: Final = ("cascade:judge", "cascade:agree", "shadow")
"""Beginnings of reasons of records that are no answer to the client."""
_DRAWS: Final = 2**53


PLANNED: Final = ("cascade", "hedge", "shadow")
"""Beginnings of reasons of records that a plan made."""


class Part(msgspec.Struct, kw_only=True, gc=False):
    """One record of a request: an attempt, a step, a judge, a copy."""

    reason: str
    deployment: str
    model: str
    provider: str
    usage: Usage
    images: int
    duration_ms: int
    ends_ms: int
    service_tier: str
    web_search: str
    charge_nusd: int
    as_charged: bool
    """Whether its charge does not follow from what it used: nothing, or a hold."""


class Asked(msgspec.Struct, kw_only=True, gc=False):
    """One request of a client, as the books tell it."""

    request_id: str
    facts: RequestFacts
    starts_ms: int
    """When it was sent to the deployment that answered, Unix milliseconds."""
    ends_ms: int
    draw: float
    """The number that stood for chance, or one made of the request's id."""
    deployment: str
    """That answered, or was tried last."""
    first: str
    """That was tried first."""
    model: str
    rule: str
    org: str
    config_version: str
    usage: Usage
    images: int
    duration_ms: int
    first_byte_ms: int | None
    hold_nusd: int
    charge_nusd: int
    """Of all attempts, corrections included."""
    service_tier: str
    web_search: str
    answered: bool
    """Whether its client got an answer."""
    stream: bool
    share: float | None = None
    """The chance with which the first deployment was chosen; None if it is not known."""
    restrict: Restriction | None = None
    health: dict[str, dict[str, Any]] | None = None
    """What was known of the deployments that were offered, by name; None: not kept."""
    exact: bool = False
    """Whether its facts are known, not guessed from what it used."""
    rating: float | None = None
    """From 0 to 1, as its client rated the answer; None: not rated."""
    parts: tuple[Part, ...] = ()
    """Every record that it was charged by."""

    @property
    def cascaded(self) -> bool:
        """Whether it went through a cascade."""
        return any(part.reason.startswith("cascade") for part in self.parts)

    @property
    def escalated(self) -> bool:
        """Of a cascade: whether the answer of its first model did not pass."""
        return self.cascaded and self.model != next((part.model for part in self.parts if part.deployment == self.first), self.model)

    @property
    def asides(self) -> tuple[Part, ...]:
        """Judges, second opinions and copies."""
        return tuple(part for part in self.parts if part.reason.startswith(ASIDES))


def read_requests(records: Iterable[SpendRecord]) -> list[Asked]:
    """Requests in the order in which they began. Attempts without a request id, such as swept ones, count as requests of their own."""
    grouped: dict[str, list[SpendRecord]] = {}
    for record in records:
        grouped.setdefault(record.request_id or record.attempt_id, []).append(record)
    found = [asked for request_id, attempts in grouped.items() if (asked := _request(request_id, attempts)) is not None]
    found.sort(key=lambda asked: asked.starts_ms)
    return found


def _request(request_id: str, attempts: list[SpendRecord]) -> Asked | None:
    told = [record for record in attempts if record.deployment and record.reason != "rerate"]
    if not told:
        return None
    used = [record for record in told if record.outcome not in UNUSED] or told
    used = [record for record in used if not record.reason.startswith(ASIDES)] or used
    answer = next((record for record in reversed(used) if record.outcome in ANSWERED), used[-1])
    traced = next((record for record in told if record.trace), None)
    trace = None if traced is None else read_trace(traced)
    asked = Asked(
        request_id=request_id,
        facts=facts_of_record(answer, None),
        starts_ms=answer.at_ms - answer.duration_ms,
        ends_ms=answer.at_ms,
        draw=draw_of(request_id),
        deployment=answer.deployment,
        first=told[0].deployment,
        model=answer.model,
        rule=answer.rule,
        org=answer.org,
        config_version=answer.config_version,
        usage=usage_of(answer),
        images=answer.images,
        duration_ms=answer.duration_ms,
        first_byte_ms=answer.first_byte_ms,
        hold_nusd=answer.hold_nusd,
        charge_nusd=sum(record.charge_nusd for record in attempts),
        service_tier=answer.service_tier,
        web_search=answer.web_search,
        answered=answer.outcome in ANSWERED,
        stream=answer.stream,
        parts=tuple(_part(record) for record in attempts if record.deployment),
    )
    if trace is not None and traced is not None:
        _add_trace(asked, traced, trace)
    return asked


def _part(record: SpendRecord) -> Part:
    return Part(
        reason=record.reason,
        deployment=record.deployment,
        model=record.model,
        provider=record.deployment.partition("/")[0],
        usage=usage_of(record),
        images=record.images,
        duration_ms=record.duration_ms,
        ends_ms=record.at_ms,
        service_tier=record.service_tier,
        web_search=record.web_search,
        charge_nusd=record.charge_nusd,
        as_charged=record.charged_hold or not record.charge_nusd or record.reason == "rerate",
    )


def _add_trace(asked: Asked, record: SpendRecord, trace: Trace) -> None:
    try:
        asked.facts = facts_of_record(record, trace)
        asked.health = states_of(trace)
    except msgspec.MsgspecError:
        # Of another release: what the record tells is enough.
        return
    asked.draw, asked.restrict, asked.exact = trace.draw, trace.restrict, True
    decision = trace.decision
    if decision.order and decision.measure in ("share", "chance"):
        asked.share = decision.order[0].score
        asked.first = decision.order[0].deployment


def draw_of(request_id: str) -> float:
    """A number in [0, 1) that is the same whenever the request is replayed."""
    return (int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest(), "big") >> 11) / _DRAWS


LOGS: Final = (".jsonl", ".ndjson", ".json", ".log")
"""Endings of files with a record a line."""


def records_of_file(path: Path) -> Iterator[SpendRecord]:
    """The records of a file with one JSON object a line, as `faregate spend export --format jsonl` and the admin API write them.

    Raises:
        ConfigError: the file cannot be read, or a line is no record.
    """
    decoder = msgspec.json.Decoder(SpendRecord)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    yield decoder.decode(line)
                except msgspec.DecodeError as error:
                    raise ConfigError(f"{path}:{number}: not a spend record: {error}") from None
    except IsADirectoryError:
        files = sorted(each.name for each in path.iterdir() if each.suffix in LOGS)
        raise ConfigError(f"{path} is a folder; name a file in it: {', '.join(files) or 'it has none with records'}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
