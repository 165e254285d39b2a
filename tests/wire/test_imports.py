"""What a process does not need is not loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

NOT_AT_START = (
    "aiohttp", "attr", "fastapi", "fakeredis", "genai_prices", "hiredis", "httpx", "jinja2", "litellm", "openai",
    "opentelemetry", "pydantic.v1", "pygments", "pyreqwest", "requests", "rich", "router.admin.app", "router.demo", "router.docs",
    "router.settings.discover", "router.settings.schema", "router.sim", "starlette",
)  # fmt: skip
"""What a service that was told what to serve, and keeps its books in a file, must not have loaded when it is ready."""

SERVE_UNTIL_READY = """
import json, os, signal, sys
import router.commands.serve as serve

def ready(*_, **__):
    print(json.dumps(sorted(sys.modules)), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

def main():
    from router import cli
    serve.greet = ready
    cli.main()

main()
"""


def test_the_common_case_loads_one_client_and_no_adapter() -> None:
    """litellm takes seconds and 170 MB, pyreqwest ten milliseconds: only those pay who use them."""
    code = (
        "import sys, router.adapters.upstream.http1, router.adapters.upstream.presets, router.adapters.upstream.litellm_lane;"
        "print([name for name in ('litellm', 'pyreqwest', 'httpx', 'aiohttp', 'openai') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def modules_when_ready(tmp_path: Path) -> list[str]:
    config = tmp_path / "router.yaml"
    config.write_text(
        "version: 1\nproviders: [openai]\nmodels: {small: openai/gpt-5.4-mini}\nroutes: {auto: [small]}\nbudgets: {all: $5/day}\n"
    )
    state = {"FAREGATE_STORE": str(tmp_path / "ledger.sqlite"), "XDG_STATE_HOME": str(tmp_path), "OPENAI_API_KEY": "k"}
    ended = subprocess.run(
        [sys.executable, "-c", SERVE_UNTIL_READY, "serve", "--config", str(config), "--port", "0"],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "REDIS_URL"} | state,
    )
    assert ended.returncode == 0, ended.stderr
    names: list[str] = json.loads(ended.stdout)
    return names


def test_a_service_that_is_ready_has_loaded_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    """A start takes under a second and 55 MB because of this; one import at the top of a module undoes it unseen."""
    loaded = modules_when_ready(tmp_path)
    assert "router.serving" in loaded
    assert [name for name in loaded if name.startswith(tuple(f"{each}." for each in NOT_AT_START)) or name in NOT_AT_START] == []
