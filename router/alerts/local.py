"""What this process alone sees: providers that refuse, models without a price, budgets that refuse, a store that is away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from router.alerts.events import Event
from router.domain.money import format_usd
from router.ports import Drift

REFUSALS: Final[Mapping[str, str]] = {
    "auth": "401: our credential is not accepted",
    "payment": "402: the account must be paid",
    "forbidden": "403: our account may not do this",
}
"""Failures that only a person can mend, by cause."""
_SECONDS: Final = 1000


class Local:
    """Looks at what this process has counted and seen; keeps what it saw last."""

    def __init__(
        self,
        *,
        counted: Callable[[str], Mapping[tuple[str, ...], float]],
        health: Callable[[], Mapping[str, str]],
        troubles: Mapping[str, tuple[str, float]],
    ) -> None:
        """`counted` gives the series of a counter by its labels, `health` a word by deployment, `troubles` the cause of the last
        failure by deployment and when it was, in monotonic seconds."""
        self._counted = counted
        self._health = health
        self._troubles = troubles
        self._refused: dict[str, float] = {}
        self._unpriced: dict[str, float] = {}
        self._down_since: dict[str, float] = {}

    def look(self, *, provider_seconds: float) -> list[Event]:
        """What is new, or lasts."""
        return [*self._providers(provider_seconds), *self._models(), *self._budgets()]

    def _providers(self, provider_seconds: float) -> Iterator[Event]:
        health = self._health()
        for name, (cause, at) in self._troubles.items():
            if health.get(name, "up") == "up":
                self._down_since.pop(name, None)
                continue
            since = self._down_since.setdefault(name, at)
            if cause in REFUSALS:
                yield provider_refusing(name, cause)
            elif at - since >= provider_seconds:
                # Measured between failures: a deployment that nobody asks is not failing.
                yield provider_failing(name, cause, at - since)

    def _models(self) -> Iterator[Event]:
        for (deployment, reason), count in self._counted("faregate_rejections_total").items():
            if reason == "unpriced" and count > self._unpriced.get(deployment, 0):
                self._unpriced[deployment] = count
                yield unpriced(deployment, counted=False)

    def _budgets(self) -> Iterator[Event]:
        for (budget, action), count in self._counted("faregate_budget_refusals_total").items():
            if action == "refuse" and count > self._refused.get(budget, 0):
                self._refused[budget] = count
                yield Event(
                    kind="budget_refusing",
                    subject=f"Budget '{budget}' refuses requests",
                    text="It works as configured. Raise the limit if the work is worth it; `faregate ledger show` tells what is left.",
                    about=budget,
                    fields={"budget": budget},
                )


def provider_refusing(deployment: str, cause: str) -> Event:
    """A provider that does not accept us."""
    return Event(
        kind="provider_refusing",
        severity="critical",
        subject=f"{deployment} refuses our calls: {REFUSALS[cause]}",
        text="Traffic goes to other deployments, if there are any. Only a person can mend this: look at the key and the account.",
        about=f"{deployment}|{cause}",
        fields={"deployment": deployment, "cause": cause},
    )


def provider_failing(deployment: str, cause: str, seconds: float) -> Event:
    """A deployment that has failed for long."""
    return Event(
        kind="provider_refusing",
        subject=f"{deployment} has failed for {seconds:.0f} s, last with {cause}",
        text="Traffic goes to other deployments, if there are any. It is tried again and again; see the provider's status page.",
        about=f"{deployment}|failing",
        fields={"deployment": deployment, "cause": cause, "failing_seconds": round(seconds)},
    )


def unpriced(deployment: str, *, counted: bool) -> Event:
    """A deployment without a price that was asked for; `counted`: it was called, and its charge is a guess."""
    done = "was called: its charges are counted at server.assumed_price" if counted else "was left out of a decision"
    return Event(
        kind="unpriced_model",
        subject=f"{deployment} has no price and {done}",
        text="Give it a price in the configuration; `faregate check` names all that have none.",
        about=deployment,
        fields={"deployment": deployment},
    )


def drifted(drifts: Sequence[Drift]) -> Event:
    """Counters that are not what the log adds up to."""
    worst = max(drifts, key=lambda drift: abs(drift.counter_nusd - drift.log_nusd))
    nusd = abs(worst.counter_nusd - worst.log_nusd)
    return Event(
        kind="ledger_drift",
        severity="critical",
        subject=f"Counters and log of the ledger differ: {len(drifts)} fields, at most by {format_usd(nusd)} USD",
        text=f"Worst: {worst.field} of {worst.bucket}. This must not happen. Run `faregate ledger verify` and keep its output.",
        about="ledger",
        fields={
            "drifts": len(drifts),
            "bucket": worst.bucket,
            "field": worst.field,
            "counter_nusd": worst.counter_nusd,
            "log_nusd": worst.log_nusd,
        },
    )


def config_rejected(source: str, reason: str) -> Event:
    """A configuration that could not be loaded; `reason` holds its findings, one a line."""
    findings = reason.splitlines()
    return Event(
        kind="config_rejected",
        subject=f"{source} was rejected ({len(findings)} errors): the old configuration stays in force",
        text="\n".join(findings[:10]),
        about=f"{source}|{reason[:200]}",
        fields={"source": source, "errors": len(findings)},
    )


class StoreAlarm:
    """Says once that the store is away for long, and that it is back."""

    def __init__(self) -> None:
        self._since_ms: int | None = None
        self._said = False

    def look(self, *, up: bool, now_ms: int, after_seconds: float) -> Event | None:
        """What to say now, if anything."""
        if up:
            since, said = self._since_ms, self._said
            self._since_ms, self._said = None, False
            return _back(now_ms - since) if said and since is not None else None
        if self._since_ms is None:
            self._since_ms = now_ms
        if self._said or now_ms - self._since_ms < after_seconds * _SECONDS:
            return None
        self._said = True
        return _away(now_ms - self._since_ms)


def _away(away_ms: int) -> Event:
    return Event(
        kind="store_away",
        severity="critical",
        subject=f"The budget store has been away for {away_ms // _SECONDS} s",
        text="What a hard budget covers is refused with 503 until it is back. Settlements wait in the outbox; nothing is lost.",
        fields={"away_ms": away_ms},
    )


def _back(away_ms: int) -> Event:
    return Event(
        kind="store_back",
        severity="info",
        subject=f"The budget store is back after {away_ms // _SECONDS} s",
        text="Budgets are guarded again; settlements that waited are delivered.",
        fields={"away_ms": away_ms},
    )
