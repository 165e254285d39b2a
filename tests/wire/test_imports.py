"""What a process does not need is not loaded."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

NOT_AT_START = (
    "aiohttp", "attr", "cel", "fastapi", "fakeredis", "genai_prices", "hiredis", "httpx", "jinja2", "litellm", "openai",
    "opentelemetry", "pydantic.v1", "pygments", "pyreqwest", "requests", "rich", "router.admin.app", "router.demo", "router.docs",
    "router.settings.discover", "router.settings.schema", "router.sim", "starlette",
)  # fmt: skip
"""What a service that was told what to serve, and keeps its books in a file, must not have loaded when it is ready."""

WITHOUT_LITELLM = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("litellm", "openai", "aiohttp", "httpx", "tiktoken", "tokenizers", "jinja2"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from router import cli

cli.main()
"""

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
    ended = subprocess.run(
        [sys.executable, "-c", SERVE_UNTIL_READY, "serve", "--config", str(config), "--port", "0"],
        capture_output=True,
        text=True,
        env=environment(tmp_path) | {"OPENAI_API_KEY": "k"},
    )
    assert ended.returncode == 0, ended.stderr
    names: list[str] = json.loads(ended.stdout)
    return names


def test_a_service_that_is_ready_has_loaded_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    """A start takes under a second and 55 MB because of this; one import at the top of a module undoes it unseen."""
    loaded = modules_when_ready(tmp_path)
    assert "router.serving" in loaded
    assert [name for name in loaded if name.startswith(tuple(f"{each}." for each in NOT_AT_START)) or name in NOT_AT_START] == []


CONFIG = """version: 1
providers: {sim: {}}
models: {m: sim/small-edge}
routes: {auto: [m]}
budgets: {all: $5/day}
"""


def environment(tmp_path: Path) -> dict[str, str]:
    state = {"FAREGATE_STORE": str(tmp_path / "ledger.sqlite"), "XDG_STATE_HOME": str(tmp_path)}
    return {name: value for name, value in os.environ.items() if name != "REDIS_URL"} | state


def test_the_service_works_where_litellm_is_not_installed(tmp_path: Path) -> None:
    """The lean install: it and all that comes with it is an extra."""
    config = tmp_path / "router.yaml"
    config.write_text(CONFIG)
    serve = [sys.executable, "-c", WITHOUT_LITELLM, "serve", str(config), "--port", "0"]
    with subprocess.Popen(serve, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment(tmp_path)) as process:
        assert process.stderr is not None
        try:
            url = next(match[1] for line in process.stderr if (match := re.match(r"Faregate serves (\S+) ", line)))
            body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "x"}]}).encode()
            request = urllib.request.Request(f"{url}/chat/completions", data=body, headers={"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=20) as answer:
                assert json.load(answer)["choices"][0]["message"]["content"]
        finally:
            process.terminate()
            # To its end: a service that cannot write its last lines says so by its status.
            process.stderr.read()
    assert process.returncode == 0


def test_a_provider_that_needs_litellm_says_how_to_install_it(tmp_path: Path) -> None:
    """At the start, not with the first request."""
    config = tmp_path / "router.yaml"
    config.write_text(
        CONFIG.replace("{sim: {}}", "{c: {kind: litellm/cohere, api_key: $COHERE_API_KEY}}").replace(
            "sim/small-edge", "c/command-a-03-2025"
        )
    )
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_LITELLM, "serve", str(config), "--port", "0"],
        capture_output=True,
        text=True,
        env=environment(tmp_path) | {"COHERE_API_KEY": "x"},
    )
    assert ended.returncode == 1
    assert "pip install 'faregate[litellm]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_lean_lock_file_is_the_full_one_without_litellm() -> None:
    """Both are tested by the same tests only as long as they pin the same releases."""
    folder = Path(__file__).parents[2] / "requirements"
    lean, full = (set(re.findall(r"^([\w.-]+==\S+)", (folder / name).read_text(), re.MULTILINE)) for name in ("runtime.txt", "litellm.txt"))
    assert lean < full
    assert not [pin for pin in lean if pin.startswith(("litellm==", "openai==", "aiohttp==", "tiktoken=="))]
    assert [pin for pin in full if pin.startswith("openai==")], "README: the client is there after `make run`"
