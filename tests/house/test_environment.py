"""What is installed beside us, and what starting the program loads."""

from __future__ import annotations

import logging
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from router import cli
from router.errors import ConfigError
from tests.house.source import ROOT

KNOWN_PTH = frozenset({"_editable_impl_faregate.pth", "a1_coverage.pth", "distutils-precedence.pth"})
"""Our own editable install; coverage's start in subprocesses; setuptools, which Python 3.11 puts into every new environment."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_no_unexpected_file_runs_at_every_start_of_python() -> None:
    """A malicious release needs no import if it can leave a `.pth` file or a `sitecustomize` in the environment."""
    places = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    found = {path.name for place in places for pattern in ("*.pth", "sitecustomize*", "usercustomize*") for path in place.glob(pattern)}
    assert found - KNOWN_PTH == set()


def test_starting_the_proxy_does_not_import_litellm() -> None:
    """litellm costs seconds and a hundred megabytes; only a configuration with a provider that needs it may pay that."""
    done = run("-c", "import sys, router.app; print(sorted({'litellm', 'openai', 'httpx', 'pyreqwest', 'typer'} & set(sys.modules)))")
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_that_help_lists_can_be_run(verb: str) -> None:
    """Modules of verbs are imported only when they are asked for, so a broken one would go unseen."""
    done = run("-m", "router", verb, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: ")


def test_help_needs_no_module_of_a_verb() -> None:
    """`faregate --help` answers at once, and even when a part is not installed."""
    done = run("-c", "import sys; from router import cli; cli.usage(); print([name for name in sys.modules if 'commands' in name])")
    assert done.stdout == "[]\n"


def test_an_unknown_verb_is_a_usage_error_with_a_suggestion() -> None:
    """A slip of the finger costs one more line, not a look into the manual."""
    done = run("-m", "router", "srve")
    assert done.returncode == cli.EXIT_USAGE
    assert 'Did you mean "serve"?' in done.stderr


@pytest.mark.parametrize("arguments", [(), ("--help",), ("help",)])
def test_help_lists_every_verb(arguments: tuple[str, ...]) -> None:
    """What can be run must be found."""
    done = run("-m", "router", *arguments)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")] == list(cli.VERBS)


def test_a_configuration_error_is_printed_without_a_traceback(tmp_path: Path) -> None:
    """The reader of the message wrote YAML, not Python."""
    bad = tmp_path / "router.yaml"
    bad.write_text("version: 1\nprovders: [openai]\n", encoding="utf-8")
    done = run("-m", "router", "serve", "--config", str(bad))
    assert done.returncode == cli.EXIT_CONFIG
    assert "router.yaml:2" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_exits_as_the_shell_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    """130 tells a script that somebody pressed Ctrl-C."""

    def interrupted(argv: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == cli.EXIT_INTERRUPTED


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """A bug report names a version that exists."""
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"faregate {cli.__version__}\n"


def test_an_unknown_verb_that_resembles_nothing_gets_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong guess is worse than none."""
    assert cli.run(["qqqq"]) == cli.EXIT_USAGE
    assert "Did you mean" not in capsys.readouterr().err


def test_findings_go_to_stderr_and_the_exit_code_is_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts read the code, people the text."""

    def refused(argv: object) -> int:
        raise ConfigError("router.yaml:2:1: provders: unknown field")

    monkeypatch.setattr(cli, "run", refused)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert (left.value.code, capsys.readouterr()) == (cli.EXIT_CONFIG, ("", "router.yaml:2:1: provders: unknown field\n"))


@pytest.mark.parametrize(("verb", "said"), [("spend", ""), ("serve", "no append-only file\n")])
def test_what_a_store_lacks_is_said_by_what_serves_from_it(
    verb: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not by each command that looks into it: cron would mail it every hour. Errors are said by all."""
    log = logging.getLogger("faregate.store")
    before, shown = log.level, logging.StreamHandler(sys.stderr)

    def command(**_: object) -> None:
        log.warning("no append-only file")
        log.error("gone")

    monkeypatch.setattr(cli, "load", lambda _: command)
    log.addHandler(shown)
    log.setLevel(logging.NOTSET)
    try:
        assert cli.run([verb]) == 0
    finally:
        log.setLevel(before)
        log.removeHandler(shown)
    assert capsys.readouterr().err == f"{said}gone\n"


def test_a_verb_is_run_with_what_follows_it(capsys: pytest.CaptureFixture[str]) -> None:
    """`faregate version --help` is help of `version`."""
    with pytest.raises(SystemExit) as left:
        cli.run(["version", "--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("Usage: faregate version")
