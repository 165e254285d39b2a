"""Verbs of the command in the test's own process: to start one costs more than what most of them do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from typer.testing import CliRunner, Result

from router.cli import load


def run(verb: str, *words: str, environment: Mapping[str, str] | None = None) -> Result:
    """Exit status and what was printed; a verb that needs a loop of its own must be run in a thread: see `said`."""
    return CliRunner().invoke(load(verb), list(words), env={"REDIS_URL": "", **(environment or {})})


async def said(verb: str, *words: str, environment: Mapping[str, str] | None = None) -> str:
    """Standard output of a verb that ends well."""
    done = await asyncio.to_thread(run, verb, *words, environment=environment)
    assert done.exit_code == 0, done.output
    return done.stdout
