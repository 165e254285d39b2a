"""`faregate evaluate`: prompts with known answers over several models, through the running router."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Final

import msgspec
import typer

from policies.answers import said_in_body
from router.commands.files import require_writable, write_scores
from router.commands.options import word
from router.domain.money import from_usd
from router.errors import ConfigError
from router.replay.evaluation import Grade, Prompt, Score, as_yaml, by_task, graded, judged, points_of, read_lines
from router.replay.hook import SECONDS, run_hook
from router.replay.report import Table, as_text, usd
from router.settings.env import KEY
from router.settings.units import parse_usd
from router.spend import printable

TIMEOUT_SECONDS: Final = 300.0
MOST_TOKENS: Final = 1024
EXIT_STOPPED: Final = 1
MOST_REASONS: Final = 5
JUDGE: Final = (
    "Rate the answer to the question from 0 (useless or wrong) to 10 (right and complete). {expected}Reply with the number alone.\n\n"
    "Question:\n{question}\n\nAnswer:\n{answer}"
)


@dataclass(slots=True)
class Spending:
    """What was spent so far, and the most that may be."""

    most_nusd: int
    spent_nusd: int = 0
    stopped: str = ""
    lock: Lock = field(default_factory=Lock)

    def add(self, nusd: int) -> None:
        """Count a call."""
        with self.lock:
            self.spent_nusd += nusd
            if self.spent_nusd >= self.most_nusd:
                self.stopped = self.stopped or f"{usd(self.spent_nusd)} USD are spent, the most that may be"


@dataclass(frozen=True, slots=True)
class Graders:
    """How answers are graded."""

    grade: Grade
    """Where a prompt does not say."""
    judge: str | None
    run: list[str]
    run_seconds: float

    def check(self, prompts: list[Prompt]) -> None:
        """Refuse prompts that cannot be graded, before anything is spent."""
        for number, one in enumerate(prompts, 1):
            grade = one.grade or self.grade
            if grade == "judge" and self.judge is None:
                raise typer.BadParameter(f"prompt {number} is graded by a judge; name one", param_hint="--judge")
            if grade == "run" and not (self.run and shutil.which(self.run[0])):
                said = f"there is no program {self.run[0]}" if self.run else f"prompt {number} is graded by a command; name one"
                raise typer.BadParameter(said, param_hint="--run")
            if grade == "schema" and one.json_schema is None:
                raise typer.BadParameter(f"prompt {number} is graded by a schema and has no `json_schema`", param_hint="PROMPTS")


@dataclass(frozen=True, slots=True)
class Client:
    """Calls the router."""

    base_url: str
    key: str
    spending: Spending

    def ask(self, model: str, messages: list[dict[str, Any]], max_tokens: int) -> tuple[str, int]:
        """(Answer, nano-USD).

        Raises:
            OSError: it does not answer, or refuses.
        """
        body = json.dumps({"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        # The address is the operator's own, from the command line.
        request = urllib.request.Request(f"{self.base_url}/chat/completions", data=body, headers=headers)  # noqa: S310
        try:
            # The same address, which is the operator's own.
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
                nusd = from_usd(answer.headers.get("x-faregate-cost-usd") or "0")
                text = said_in_body(answer.read()).text
        except urllib.error.HTTPError as error:
            said = f"HTTP {error.code}: {error.read(300).decode(errors='replace')}"
            if error.code in (401, 402, 403):
                self.spending.stopped = said
            raise OSError(said) from None
        self.spending.add(nusd)
        return text, nusd


def command(
    prompts: Annotated[Path, typer.Argument(help='File of prompts: {"prompt": ..., "expect": ..., "task": ...}, one a line.')],
    model: Annotated[list[str], typer.Option(help="Model or route to evaluate; may be given again.")],
    out: Annotated[Path, typer.Option(help="File for the scores, one a line; what it has already is not asked again.")],
    base_url: Annotated[str, typer.Option(help="Where the router answers.")] = "http://127.0.0.1:4000/v1",
    grade: Annotated[Grade, word("--grade", Grade, "How answers are compared, where a prompt does not say.")] = "exact",
    judge: Annotated[str | None, typer.Option(help="Model that rates the answers to prompts graded `judge`.")] = None,
    run: Annotated[
        str | None,
        typer.Option(help="Command that grades answers to prompts graded `run`: it reads their code, and exit code 0 is right."),
    ] = None,
    run_seconds: Annotated[float, typer.Option(min=0.1, help="How long that may take.")] = SECONDS,
    max_cost: Annotated[str, typer.Option(help="Stop when so much is spent.")] = "$1",
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Calls at a time.")] = 4,
    write: Annotated[Path | None, typer.Option(help="Configuration file in whose catalogue the mean scores are written.")] = None,
) -> None:
    """Ask every model every prompt, with the key in FAREGATE_KEY, whose budgets hold; print mean scores as YAML for the catalogue."""
    try:
        spending = Spending(parse_usd(max_cost))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--max-cost") from None
    asked: list[Prompt] = read_lines(prompts, Prompt)
    graders = Graders(grade, judge, shlex.split(run or ""), run_seconds)
    graders.check(asked)
    known: list[Score] = read_lines(out, Score) if out.exists() else []
    require_writable(out)
    done = {(one.prompt, one.model) for one in known if not one.error}
    client = Client(base_url.rstrip("/"), os.environ.get(KEY, ""), spending)
    work = [(number, one, name) for number, one in enumerate(asked, start=1) for name in model if (number, name) not in done]
    lock = Lock()

    def score(item: tuple[int, Prompt, str]) -> None:
        if spending.stopped:
            return
        made = _score(client, *item, graders)
        with lock, out.open("ab") as file:
            file.write(msgspec.json.encode(made) + b"\n")

    with ThreadPoolExecutor(parallel) as pool:
        list(pool.map(score, work))
    _report(out, spending, write)


def _report(out: Path, spending: Spending, write: Path | None) -> None:
    scores: list[Score] = read_lines(out, Score) if out.exists() else []
    latest = list({(one.prompt, one.model): one for one in scores}.values())
    errors = Counter((one.model, one.error) for one in latest if one.error)
    rows = [(one.name, f"{one.prompts:,}", f"{one.quality:.3f}", usd(one.cost_nusd)) for one in points_of(latest)]
    table = Table(title="On the prompts that all answered", columns=("model", "prompts", "score", "USD each"), rows=rows)
    reasons = [f"  {count:,} of {name}: {printable(why)}" for (name, why), count in errors.most_common(MOST_REASONS)]
    sys.stderr.write(as_text([f"{usd(spending.spent_nusd)} USD spent, {errors.total():,} calls failed.", *reasons], [table]) + "\n")
    typer.echo(as_yaml(latest))
    if spending.stopped:
        typer.echo(f"stopped: {spending.stopped}", err=True)
        raise typer.Exit(EXIT_STOPPED)
    if errors and errors.total() == len(latest):
        raise typer.Exit(EXIT_STOPPED)
    if write is not None:
        write_scores(write, by_task(latest))


def _score(client: Client, number: int, prompt: Prompt, model: str, graders: Graders) -> Score:
    grade, judge = prompt.grade or graders.grade, graders.judge
    messages = prompt.messages or [{"role": "user", "content": prompt.prompt}]
    score = Score(prompt=number, model=model, task=prompt.task)
    began = time.perf_counter()
    try:
        answer, score.cost_nusd = client.ask(model, messages, prompt.max_tokens or MOST_TOKENS)
        score.ms = round((time.perf_counter() - began) * 1000, 1)
        if grade == "run":
            question = str(messages[-1].get("content", ""))
            score.score = run_hook(
                graders.run, answer, prompt=question, expect=prompt.expect, task=prompt.task, seconds=graders.run_seconds
            )
        elif grade != "judge" or judge is None:
            score.score = graded(answer, prompt.expect, grade, prompt.json_schema)
        else:
            expected = f"The right answer is: {prompt.expect}\n" if prompt.expect else ""
            question = messages[-1].get("content", "")
            text = JUDGE.format(expected=expected, question=question, answer=answer)
            score.score = judged(client.ask(judge, [{"role": "user", "content": text}], 16)[0])
    except (OSError, ConfigError) as error:
        score.error = str(error)[:200]
    return score
