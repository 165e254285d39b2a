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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.budget_race.cases import CASES, Case
from benchmarks.budget_race.provider import INPUT_NUSD, OUTPUT_NUSD, PROMPT_TOKENS, Bill, Provider
from benchmarks.budget_race.targets import Elsewhere, Faregate, LiteLLM, Target

CALL_SECONDS: Final = 40.0
CAP: Final = 100
BEFORE_ROLLOVER_SECONDS: Final = 6.0
REFUSED: Final = frozenset({400, 402, 403, 422, 429})
"""What proxies say when the money is gone; LiteLLM says 422. 503 and 500 are failures, not refusals."""


@dataclass(slots=True)
class Result:
    """What a case came to."""

    case: Case
    bill: Bill
    booked_nusd: int | None
    answers: Counter[str] = field(default_factory=Counter)

    @property
    def over_nusd(self) -> int:
        """Billed beyond the budget; across windows, the sum of what each is over."""
        budget = round(self.case.budget_usd * 1e9)
        spent = list(self.bill.by_minute.values()) if self.case.minute else [self.bill.nusd]
        return sum(max(0, nusd - budget) for nusd in spent)

    @property
    def lost_nusd(self) -> int | None:
        """Billed, but not in the books."""
        return None if self.booked_nusd is None else max(0, self.bill.nusd - self.booked_nusd)

    @property
    def refused(self) -> int:
        return sum(count for word, count in self.answers.items() if word.isdigit() and int(word) in REFUSED)

    @property
    def false_refusals(self) -> int | None:
        """Refused calls that the money left at the end would have paid for; None: the case has several windows."""
        if self.case.minute:
            return None
        left = round(self.case.budget_usd * 1e9) - self.bill.nusd
        price = PROMPT_TOKENS * INPUT_NUSD + CAP * self.case.n * OUTPUT_NUSD
        return min(self.refused, max(0, left // price))


async def call(target: Target, case: Case, number: int) -> str:
    """One call; the status, with how it ended if not well."""
    url = urlsplit(target.urls[number % len(target.urls)])
    streams = math.floor((number + 1) * case.stream) > math.floor(number * case.stream)
    wish = f"[[{case.kind} {case.tokens} {case.wait_ms}]] Write a hundred words, please."
    body: dict[str, Any] = {"model": target.model, "max_tokens": CAP, "messages": [{"role": "user", "content": wish}]}
    if streams:
        body |= {"stream": True}
    if case.n > 1:
        body["n"] = case.n
    content = json.dumps(body).encode()
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


async def load(target: Target, case: Case, answers: Counter[str]) -> None:
    """All calls of a case; for one with a duration, so many at once for so long."""
    ends = time.monotonic() + case.seconds
    numbers = iter(range(10**9 if case.seconds else case.calls))

    async def caller() -> None:
        for number in numbers:
            if case.seconds and time.monotonic() > ends:
                return
            answer = await call(target, case, number)
            answers[answer] += 1
            if case.seconds and answer != "200":
                await asyncio.sleep(0.2)

    await asyncio.gather(*(caller() for _ in range(case.at_once)))


async def strike(target: Target, case: Case) -> None:
    if case.fault:
        await asyncio.sleep(case.fault_at)
        await target.strike(case.fault)


async def run(target: Target, case: Case, provider: Provider) -> Result:
    """One case on one target."""
    answers: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="race-") as folder:
        try:
            await target.start(case, Path(folder), provider.port)
            if case.minute:
                wait = (60 - BEFORE_ROLLOVER_SECONDS - time.time()) % 60
                await asyncio.sleep(wait)
            provider.bill = Bill()
            await asyncio.gather(load(target, case, answers), strike(target, case))
            booked = await target.booked_nusd()
        finally:
            await target.stop()
    return Result(case, provider.bill, booked, answers)


def table(target: Target, results: list[Result]) -> str:
    """Markdown."""
    lines = [f"**{target.name}**", "", "| case | budget | billed | overspend | lost spend | false refusals | answers |"]
    lines += ["|---|---:|---:|---:|---:|---:|---|"]
    for result in results:
        lost = "–" if result.lost_nusd is None else _usd(result.lost_nusd)
        wrong = "–" if result.false_refusals is None else str(result.false_refusals)
        answers = ", ".join(f"{count} × {word}" for word, count in sorted(result.answers.items()))
        budget = _usd(round(result.case.budget_usd * 1e9)) + (" a minute" if result.case.minute else "")
        lines.append(
            f"| {result.case.title} | {budget} | {_usd(result.bill.nusd)} | {_usd(result.over_nusd)} | {lost} | {wrong} | {answers} |"
        )
    return "\n".join(lines)


def _usd(nusd: int) -> str:
    return "0" if not nusd else f"{nusd / 1e9:.5f}".rstrip("0").rstrip(".")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget_race", description=__doc__)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="Only these; all if left out.")
    parser.add_argument("--store", action="append", choices=["redis", "sqlite"], help="Run ours on this store.")
    parser.add_argument("--litellm", type=Path, metavar="VENV", help="Also run LiteLLM from this environment.")
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
    targets: list[Target] = [Faregate(store) for store in chosen.store or ([] if chosen.target or chosen.litellm else ["redis"])]
    if chosen.litellm:
        targets.append(LiteLLM(chosen.litellm.absolute()))
    if chosen.target:
        targets.append(Elsewhere(chosen.target, key=chosen.key, model=chosen.model, reset=chosen.reset, books=chosen.books))
    cases = [case for case in CASES if not chosen.case or case.name in chosen.case]
    async with Provider(chosen.provider_port) as provider:
        for target in targets:
            results = []
            for case in cases:
                if not target.carries(case):
                    continue
                results.append(await run(target, case, provider))
                print(f"{target.name}: {case.title}: {dict(results[-1].answers)}", file=sys.stderr, flush=True)
            print(table(target, results), end="\n\n", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
