"""Where private requests went, in a report that shows whether it was changed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from router.books.privacy import Broken, Entry, chained, entry_of, read_report
from router.cli import load
from router.domain.records import SpendRecord
from tests.books import typed
from tests.running import running

CONFIG = """
version: 1
server: {store: "STORE"}
signals: {timeout: 5s}
providers:
  house: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  home: {at: house/home, locality: local, price: {input: 5, output: 5}}
  far: {at: house/far, locality: cloud, price: {input: 1, output: 1}}
privacy:
  personal: {when: {pii: true}, only: {locality: local}}
routes:
  auto: [far, home]
keys:
  tester: {secret: $TEST_KEY}
"""


def record(number: int, **more: object) -> SpendRecord:
    (made,) = typed([{"attempt_id": f"a{number}", "request_id": f"r{number}", "at_ms": number, "outcome": "ok"} | more])
    return made


def entry(number: int) -> Entry:
    made = entry_of(record(number, private=["personal", "secret"], host="h:1", locality="local"))
    assert made is not None
    return made


def written(count: int, after: str = "") -> list[str]:
    return list(chained([entry(number) for number in range(count)], since_ms=1, until_ms=2, after=after))


def test_a_report_says_what_was_put_in() -> None:
    """And nothing of requests that were not private."""
    entries, last = read_report(written(3))
    assert entries == [entry(number) for number in range(3)]
    assert [reached.private for reached in entries[0].reached()] == ["personal", "secret"]
    assert read_report(written(3, after=last))[1] != last
    assert entry_of(record(1)) is None


@given(st.integers(0, 4), st.integers(0, 200), st.sampled_from("0aZ{, "))
def test_a_changed_character_is_seen(line: int, place: int, letter: str) -> None:
    """Wherever it is."""
    lines = written(4)
    text = lines[line]
    place %= len(text)
    changed = text[:place] + letter + text[place + 1 :]
    if changed != text and msgspec.json.decode(text) != _decoded(changed):
        with pytest.raises(Broken):
            read_report([*lines[:line], changed, *lines[line + 1 :]])


def _decoded(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return None


def test_a_line_that_is_missing_doubled_or_moved_is_seen() -> None:
    """What is left out at the end shows by the last hash only: the report does not know how long it should be."""
    lines = written(4)
    for changed in (lines[1:], lines[:2] + lines[3:], [*lines[:2], lines[1], *lines[2:]], [lines[0], lines[2], lines[1], *lines[3:]], []):
        with pytest.raises(Broken):
            read_report(changed)
    assert read_report(lines[:-1])[1] != read_report(lines)[1]
    with pytest.raises(Broken, match="not a report"):
        read_report([line.replace("privacy-1", "privacy-2") for line in chained([], since_ms=1, until_ms=2, after="")])


async def sent(folder: Path) -> tuple[str, str]:
    """Serve a plain request and a private one. Returns the store and the host that was reached."""
    async with running(folder, CONFIG) as app:
        await app.ask("auto")
        await app.ask("auto", messages=[{"role": "user", "content": "Write to jane.doe@example.com."}])
        await app.settled()
        return app.store, app.up.base_url.split("/")[2]


def test_the_command_reports_what_was_sent(tmp_path: Path) -> None:
    """From the books to a file, and back."""
    store, host = asyncio.run(sent(tmp_path))
    out, verb = tmp_path / "report.jsonl", load("privacy")
    made = CliRunner().invoke(verb, ["report", "--store", store, "--out", str(out)])
    assert made.exit_code == 0, made.output
    assert "1 private requests were sent, in 1 attempts." in made.output
    assert ["personal", host, "local", "house/home", "1", "1"] in [line.split() for line in made.output.splitlines()]
    last = made.output.split()[-1]
    assert CliRunner().invoke(verb, ["verify", str(out), "--expect", last]).exit_code == 0
    again = CliRunner().invoke(verb, ["report", "--store", store, "--out", str(out)])
    assert (again.exit_code, "exists" in again.output) == (2, True)
    following = tmp_path / "next.jsonl"
    assert CliRunner().invoke(verb, ["report", "--store", store, "--out", str(following), "--after", str(out)]).exit_code == 0
    assert f'"after":"{last}"' in following.read_text()
    out.write_text(out.read_text().replace('"locality":"local"', '"locality":"cloud"'))
    found = CliRunner().invoke(verb, ["verify", str(out)])
    assert (found.exit_code, "line 2 or one before it was changed" in found.output) == (1, True)


def test_records_from_before_have_no_class() -> None:
    """They were written by a release that did not say."""
    assert (record(1).private, record(1).host) == ([], "")
