"""`python -m benchmarks.budget_race`: run the cases, print one table per proxy."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.budget_race.cases import CASES, Case
from benchmarks.budget_race.provider import INPUT_NUSD, OUTPUT_NUSD, Bill, Provider
from benchmarks.budget_race.targets import FAKETIME, Elsewhere, Faregate, LiteLLM, Started, Target

CALL_SECONDS: Final = 40.0
CAP: Final = 100
BEFORE_ROLLOVER_SECONDS: Final = 6.0
REFUSED: Final = frozenset({400, 402, 403, 422, 429})
"""What proxies say when the money is gone; LiteLLM says 422. 503 and 500 are failures, not refusals."""
WORDS: Final = "Write a hundred words, please."
SETTLED_SECONDS: Final = 1.0
"""So long after its end a call may still be under way in the books."""
MOST_AFTERWARDS: Final = 3


@dataclass(slots=True)
class Refused:
    """A refusal, and what was billed when it came."""

    began: float
    ended: float
    billed_nusd: int


@dataclass(slots=True)
class Calls:
    """What came of all calls of a case."""

    answers: Counter[str] = field(default_factory=Counter)
    refused: list[Refused] = field(default_factory=list)
    served: list[tuple[float, float]] = field(default_factory=list)
    """Begin and end of those that were not refused."""

    def add(self, answer: str, began: float, billed_nusd: int) -> None:
        ended = time.monotonic()
        self.answers[answer] += 1
        if _is_refusal(answer):
            self.refused.append(Refused(began, ended, billed_nusd))
        else:
            self.served.append((began, ended))

    def alone(self) -> list[Refused]:
        """Refusals while no other call was under way: nothing can have been held."""
        return [
            refused
            for refused in self.refused
            if not any(began <= refused.ended and refused.began <= ended + SETTLED_SECONDS for began, ended in self.served)
        ]


@dataclass(slots=True)
class Result:
    """What a case came to."""

    case: Case
    calls: Calls
    bill: Bill
    booked_nusd: int | None
    left_nusd: int
    """After all calls of the case, of its budget: by the bill or by the books, whichever is less."""
    afterwards: list[str]
    """Answers of calls that were made one at a time, once everything had come to rest, as long as there was money for one."""
    calls_nusd: int
    """Billed for the calls of the case, without those afterwards."""

    @property
    def over_nusd(self) -> int:
        """Billed beyond the budget; across windows, the sum of what each is over."""
        spent = list(self.bill.by_minute.values()) if self.case.minute else [self.bill.nusd]
        return sum(max(0, nusd - budget_nusd(self.case)) for nusd in spent)

    @property
    def lost_nusd(self) -> int | None:
        """Billed, but not in the books."""
        return None if self.booked_nusd is None else max(0, self.bill.nusd - self.booked_nusd)

    @property
    def false_refusals(self) -> int | None:
        """Refused though the money for the call's worst case was there and nobody held it; None: the case has several windows."""
        if self.case.minute:
            return None
        above_bill = budget_nusd(self.case) - self.left_nusd - self.calls_nusd
        room = [budget_nusd(self.case) - refused.billed_nusd - max(0, above_bill) for refused in self.calls.alone()]
        return sum(nusd >= worst_nusd(self.case) for nusd in room) + sum(map(_is_refusal, self.afterwards))

    @property
    def refused_while_held(self) -> int | None:
        """Refused while others held the money, that these then did not use: what was left would have paid for so many."""
        if self.case.minute:
            return None
        most = max(0, self.left_nusd // worst_nusd(self.case))
        return min(len(self.calls.refused) - len(self.calls.alone()), most)


def budget_nusd(case: Case) -> int:
    return round(case.budget_usd * 1e9)


def worst_nusd(case: Case) -> int:
    """What a call can cost for who knows neither tokenizer nor template: a token per byte of it, and all the output that it asks for."""
    return len(body_of(case, "m", streams=case.stream > 0)) * INPUT_NUSD + CAP * case.n * OUTPUT_NUSD


def body_of(case: Case, model: str, *, streams: bool) -> bytes:
    wish = f"[[{case.kind} {case.tokens} {case.wait_ms}]] {WORDS}"
    body: dict[str, Any] = {"model": model, "max_tokens": CAP, "messages": [{"role": "user", "content": wish}]}
    if streams:
        body |= {"stream": True}
    if case.n > 1:
        body["n"] = case.n
    return json.dumps(body).encode()


def _is_refusal(answer: str) -> bool:
    return answer.isdigit() and int(answer) in REFUSED


async def call(target: Target, case: Case, number: int) -> str:
    """One call; the status, with how it ended if not well."""
    url = urlsplit(target.urls[number % len(target.urls)])
    streams = math.floor((number + 1) * case.stream) > math.floor(number * case.stream)
    content = body_of(case, target.model, streams=streams)
    head = (
        f"POST {url.path}/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {target.key}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    got = b""
    try:
        async with asyncio.timeout(CALL_SECONDS):
            reader, writer = await asyncio.open_connection(url.hostname, url.port or 80)
            with suppress(ConnectionError):
                writer.write(head.encode() + content)
                while data := await reader.read(65536):
                    got += data
            writer.close()
    except TimeoutError:
        return "hung"
    except OSError:
        return "no connection"
    return got.split(b" ", 2)[1].decode() if got.startswith(b"HTTP/") else "cut"


async def load(target: Target, case: Case, provider: Provider, calls: Calls) -> None:
    """All calls of a case; for one with a duration, so many at once for so long."""
    ends = time.monotonic() + case.seconds
    numbers = iter(range(10**9 if case.seconds else case.calls))

    async def caller() -> None:
        for number in numbers:
            if case.seconds and time.monotonic() > ends:
                return
            began = time.monotonic()
            answer = await call(target, case, number)
            calls.add(answer, began, provider.bill.nusd)
            if case.seconds and answer != "200":
                await asyncio.sleep(0.2)

    await asyncio.gather(*(caller() for _ in range(case.at_once)))


async def strike(target: Target, case: Case) -> None:
    if case.fault:
        await asyncio.sleep(case.fault_at)
        await target.strike(case.fault)


async def before_the_end_of_a_window(target: Target, case: Case, provider: Provider) -> None:
    """Wait until some seconds before; where a window begins with a call, make one."""
    provider.bill = Bill(begins=time.time() if target.begins_with_a_call else 0.0)
    if target.begins_with_a_call:
        await call(target, replace(case, wait_ms=0), 0)
    await asyncio.sleep((60 - BEFORE_ROLLOVER_SECONDS - (time.time() - provider.bill.begins)) % 60)


async def run(target: Target, case: Case, provider: Provider) -> Result:
    """One case on one target."""
    calls = Calls()
    with tempfile.TemporaryDirectory(prefix="race-") as folder:
        try:
            await target.start(case, Path(folder), provider.port)
            provider.bill = Bill()
            if case.minute:
                await before_the_end_of_a_window(target, case, provider)
            await asyncio.gather(load(target, case, provider, calls), strike(target, case))
            booked = await target.booked_nusd()
            billed = provider.bill.nusd
            result = Result(case, calls, provider.bill, booked, budget_nusd(case) - max(billed, booked or 0), [], billed)
            if not case.minute:
                await call_afterwards(target, result)
        finally:
            await target.stop()
    return result


async def call_afterwards(target: Target, result: Result) -> None:
    """At rest, one at a time: nothing is held now, so each call that there is money for must be let through."""
    case, left = replace(result.case, kind="ok", tokens=CAP, wait_ms=0), result.left_nusd
    while left >= worst_nusd(case) and len(result.afterwards) < MOST_AFTERWARDS:
        result.afterwards.append(await call(target, case, 0))
        left -= worst_nusd(case)
    if result.afterwards:
        result.booked_nusd = await target.booked_nusd()


HEAD: Final = """
| case | budget | billed | overspend | lost spend | false refusals | refused while held | answers | afterwards |
|---|---:|---:|---:|---:|---:|---:|---|---|"""


def row(result: Result) -> str:
    """Markdown."""
    lost = "–" if result.lost_nusd is None else _usd(result.lost_nusd)
    counts = ["–" if count is None else str(count) for count in (result.false_refusals, result.refused_while_held)]
    answers, afterwards = _counted(result.calls.answers), _counted(Counter(result.afterwards)) or "–"
    budget = _usd(budget_nusd(result.case)) + (" a minute" if result.case.minute else "")
    cells = [result.case.title, budget, _usd(result.bill.nusd), _usd(result.over_nusd), lost, *counts, answers, afterwards]
    return f"| {' | '.join(cells)} |"


def _counted(answers: Counter[str]) -> str:
    return ", ".join(f"{count} × {word}" for word, count in sorted(answers.items()))


def _usd(nusd: int) -> str:
    return "0" if not nusd else f"{nusd / 1e9:.5f}".rstrip("0").rstrip(".")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget_race", description=__doc__)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="Only these; all if left out.")
    parser.add_argument("--store", action="append", choices=["redis", "sqlite"], help="Run ours on this store.")
    parser.add_argument("--litellm", type=Path, metavar="VENV", help="Also run LiteLLM from this environment.")
    parser.add_argument(
        "--faketime", type=Path, default=FAKETIME, metavar="FILE", help="libfaketimeMT.so.1; without it no clock jumps. Default: Debian's."
    )
    parser.add_argument("--target", metavar="URL", help="A proxy that you run: its base URL, ending in /v1.")
    parser.add_argument("--key", default="", help="Of --target.")
    parser.add_argument("--model", default="m", help="Of --target; its price must be that of the provider here: 1 and 10 USD per million.")
    parser.add_argument(
        "--reset", default="", help="Of --target: a command run before each case; it sets the budget to $BUDGET_USD, nothing spent."
    )
    parser.add_argument("--books", default="", help="Of --target: a command that prints what is booked, in USD.")
    parser.add_argument("--provider-port", type=int, default=0, help="Of --target: where its provider is to listen.")
    return parser.parse_args()


async def main() -> None:
    chosen = arguments()
    Started.faketime = chosen.faketime.absolute()
    targets: list[Target] = [Faregate(store) for store in chosen.store or ([] if chosen.target or chosen.litellm else ["redis"])]
    if chosen.litellm:
        targets.append(LiteLLM(chosen.litellm.absolute()))
    if chosen.target:
        targets.append(Elsewhere(chosen.target, key=chosen.key, model=chosen.model, reset=chosen.reset, books=chosen.books))
    cases = [case for case in CASES if not chosen.case or case.name in chosen.case]
    async with Provider(chosen.provider_port) as provider:
        for target in targets:
            print(f"**{target.name}**", HEAD, sep="\n", flush=True)
            for case in cases:
                if target.carries(case):
                    print(row(await run(target, case, provider)), flush=True)
                else:
                    print(f"{target.name}: not run: {case.title}", file=sys.stderr, flush=True)
            print(flush=True)


if __name__ == "__main__":
    asyncio.run(main())
