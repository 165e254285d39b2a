"""The demonstration as a user starts it: a process of its own, and what it claims is checked."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from router.domain.money import format_usd

ROOT = Path(__file__).parents[2]
Played = tuple[str, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """One run of the whole script: its lines, and its figures by act."""
    report = tmp_path_factory.mktemp("demo") / "report.json"
    command = [sys.executable, "-m", "router", "demo", "--fast", "--plain", "--seed", "1", "--report", str(report)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stderr == ""
    return done.stdout, json.loads(report.read_text())


def test_in_normal_times_everybody_is_served(played: Played) -> None:
    """The first act is what the others are compared with."""
    figures = played[1]["Normal"]
    assert figures["served"] == figures["requests"] == 46
    assert figures["avoided_nusd"] > figures["spent_nusd"] > 0


def test_when_a_provider_dies_its_traffic_moves_and_nobody_notices(played: Played) -> None:
    """Fallback happens within the request; after a few failures the dead provider is not asked any more."""
    figures = played[1]["A provider dies"]
    assert figures["served"] == figures["requests"]
    assert figures["moved"] == figures["wanted_frontier"] > 3
    assert 1 <= figures["fell_back_after_a_call"] <= figures["wanted_frontier"]


def test_a_provider_that_is_back_is_found_again(played: Played) -> None:
    """A cooldown must end by itself."""
    figures = played[1]["The provider comes back"]
    assert figures["back"] == 1
    assert figures["failed"] == 0


def test_a_looping_agent_is_stopped_by_the_budget_of_its_session(played: Played) -> None:
    """Exactly that session stops, before its limit is passed; its neighbours go on."""
    figures = played[1]["An agent loops"]
    assert (figures["stopped_by"], figures["code"]) == ("session", "budget_exceeded")
    assert figures["turns_served"] > 5
    assert 0 < figures["session_spent_nusd"] <= figures["session_limit_nusd"] == 20_000_000
    assert figures["other_session_status"] == 200


def test_a_team_near_its_budget_is_served_by_smaller_models(played: Played) -> None:
    """The budget holds, nobody is refused, and the small model does the rest."""
    figures = played[1]["A team nears its budget"]
    assert figures["served_by_frontier"] > 0
    assert figures["served_by_pocket"] >= 6
    assert (figures["refused"], figures["failed"]) == (0, 0)
    assert 0.9 * figures["limit_nusd"] < figures["spent_nusd"] <= figures["limit_nusd"] == 120_000_000


def test_a_team_without_smaller_models_is_refused_in_time(played: Played) -> None:
    """Refused by its own budget, with less than one more call of the cheapest candidate left."""
    figures = played[1]["Another runs dry"]
    assert figures["refused_by_support"] == figures["refused"] >= 5
    assert figures["served"] > 0
    assert 0.9 * figures["limit_nusd"] < figures["spent_nusd"] <= figures["limit_nusd"] == 100_000_000


def test_the_books_equal_the_providers_bill(played: Played) -> None:
    """Two counts that know nothing of each other agree to the nano-dollar."""
    figures = played[1]["The books"]
    assert figures["difference_nusd"] == 0
    assert figures["booked_nusd"] == figures["billed_nusd"] > 100_000_000
    assert (figures["held_nusd"], figures["drift"], figures["estimated_records"]) == (0, 0, 0)


def test_the_lines_say_what_the_figures_say(played: Played) -> None:
    """People read the lines, so those must be true too."""
    text, figures = played
    assert text.startswith("faregate demo:")
    for number, title in enumerate(list(figures)[:-1], start=1):
        assert f"Act {number}: {title}" in text
    assert "Difference 0.000000000 USD." in text
    assert f"Booked:   {figures['The books']['booked_nusd'] / 1e9:.9f} USD" in text
    assert "faregate init" in text


def test_the_first_line_comes_at_once() -> None:
    """Whoever tries a program for the first time does not wait for it."""
    began = time.monotonic()
    command = [sys.executable, "-m", "router", "demo", "--fast", "--plain"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.monotonic() - began
        process.kill()
        process.stdout.read()
    assert line.startswith("faregate demo")
    assert seconds < 10


def test_in_a_terminal_it_is_a_live_view_that_ctrl_c_ends(tmp_path: Path) -> None:
    """The view needs a terminal; interrupted, it gives the cursor back and leaves no file behind."""
    mine, theirs = pty.openpty()
    # At its usual pace: a fast one may be over before the signal comes.
    command = [sys.executable, "-m", "router", "demo"]
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40", "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, env=environ, preexec_fn=_heed_ctrl_c
    )
    os.close(theirs)
    try:
        shown = _read_until(mine, b"avoided", b"budgets")
        process.send_signal(signal.SIGINT)
        shown += _read_to_end(mine)
        assert process.wait(timeout=30) == 130
    finally:
        process.kill()
        process.wait()
        os.close(mine)
    assert "╭─".encode() in shown
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l"), "the cursor is shown again"
    assert list(tmp_path.iterdir()) == []


def test_the_simulator_serves_on_a_port_of_its_own() -> None:
    """`faregate sim` is for users' own configurations; ended, it states its bill."""
    command = [sys.executable, "-m", "router", "sim", "--port", "0", "--seed", "3", "--speed", "1000", "--no-faults"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().split()[3].removesuffix(":")
        with openai.OpenAI(base_url=base_url, api_key="none") as client:
            ask = [{"role": "user", "content": "hello"}]
            # Plain dicts do.
            answer = client.chat.completions.create(model="small-edge", messages=ask)  # type: ignore[arg-type]
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
    assert answer.usage is not None
    assert rest == f"Billed 1 calls, {format_usd(answer.usage.total_tokens * 100)} USD\n"
    assert process.returncode == 0


def test_the_installed_configuration_is_the_one_in_the_repository() -> None:
    """People read `config/demo.yaml`; the program runs the copy inside the package."""
    assert (ROOT / "config" / "demo.yaml").read_bytes() == (ROOT / "router" / "demo" / "demo.yaml").read_bytes()


def _heed_ctrl_c() -> None:
    """What a shell starts in the background inherits that Ctrl-C is ignored; these tests may be such a thing."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _read_until(file: int, *marks: bytes) -> bytes:
    shown = b""
    while not all(mark in shown for mark in marks):
        shown += os.read(file, 65536)
    return shown


def _read_to_end(file: int) -> bytes:
    shown = b""
    # Linux tells of the other side's end by an error.
    with contextlib.suppress(OSError):
        while part := os.read(file, 65536):
            shown += part
    return shown
