"""The calls in the page of the admin API: a reader copies them, so they are made."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path

import pytest

from router.admin.office import Office
from router.serving import RunningApp
from router.settings import load_snapshot
from tests.docs.test_examples import ENVIRONMENT, configuration_of
from tests.house.source import ROOT

PAGE = ROOT / "docs" / "admin.md"


def calls() -> list[str]:
    """Every call of curl, on a line of its own."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.startswith("curl ")]


async def test_every_call_in_the_page_works_with_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, beside the configuration that stands above them, as a shell runs them."""
    for name, value in (ENVIRONMENT | {"FAREGATE_STORE": str(tmp_path / "ledger.sqlite"), "REDIS_URL": ""}).items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "router.yaml"
    file.write_text(re.sub(r"port: \d+", "port: 0", configuration_of(PAGE)), encoding="utf-8")
    snapshot = load_snapshot(str(file))
    async with RunningApp(snapshot, port=0, log_target="/dev/null", load=lambda: load_snapshot(str(file))) as app:
        office = app.service._office
        assert isinstance(office, Office)
        shell = {"PATH": "/usr/bin:/bin", "TOKEN": ENVIRONMENT["ALICE_SECRET"], "VERSION": snapshot.version}
        shell["ADMIN"] = f"http://127.0.0.1:{office.port}/admin/v1"
        assert len(calls()) > 15
        for call in calls():
            command = ["bash", "-c", call.replace("curl ", "curl --fail-with-body --max-time 60 ", 1)]
            done = await asyncio.to_thread(subprocess.run, command, env=shell, capture_output=True, text=True, timeout=90, check=False)
            assert done.returncode == 0, f"{call}\n{done.stdout}{done.stderr}"
            if '"key":"sk-fg-' in done.stdout:
                shell["KEY_ID"] = json.loads(done.stdout)["card"]["id"]
