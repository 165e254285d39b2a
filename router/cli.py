"""The command `faregate`: one table of verbs, each loaded only when it is the one that was asked for."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from router import __version__

if TYPE_CHECKING:
    import typer

PROGRAM: Final = "faregate"
EXIT_CONFIG: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
LASTING: Final = frozenset({"serve", "demo"})
"""Verbs that serve from a store."""


@dataclass(frozen=True, slots=True)
class Verb:
    """One word that may follow `faregate`."""

    module: str
    """Holds `app` (a typer application, for a group of verbs) or `command` (a function)."""
    help: str


def _verb(name: str, help_line: str) -> tuple[str, Verb]:
    return name, Verb(module=f"router.commands.{name}", help=help_line)


VERBS: Final[Mapping[str, Verb]] = MappingProxyType(
    dict(
        (
            _verb("serve", "Serve a configuration file, or what is found in the environment."),
            _verb("check", "Check a configuration file: every error at once, exit 1 if there is one."),
            _verb("init", "Write a commented configuration to start from."),
            _verb("schema", "Print the JSON schema of the configuration, for editors."),
            _verb("explain", "Say where a request would go, why, and what it could cost."),
            _verb("test", "Run policy tests, and say which rules none of them reached."),
            _verb("plan", "Say what a change of the configuration would do, on the requests of a log."),
            _verb("drill", "Say what would be without a vendor: requests with nothing left, costs, budgets."),
            _verb("evaluate", "Score models on prompts with known answers, through the running router."),
            _verb("frontier", "Show which models nothing else beats in cost and quality."),
            _verb("feedback", "Show how clients rated the answers, by model, team or rule."),
            _verb("privacy", "List where private requests went, in a report that cannot be changed unseen."),
            _verb("keys", "Make, list, rotate and revoke the keys of clients."),
            _verb("spend", "Show what was spent, by day, team, model or route."),
            _verb("ledger", "Show budgets, and compare the counters with the log."),
            _verb("reconcile", "Compare the ledger with a provider's own account of costs or usage."),
            _verb("budget", "Show the limits of budgets, and change them while the service runs."),
            _verb("freeze", "Refuse a team, a key, a user, a model, or all, at once."),
            _verb("unfreeze", "Take a freeze back."),
            _verb("drain", "Send no new call to a provider or a deployment."),
            _verb("undrain", "Take a drain back."),
            _verb("resume", "Let a canary that was taken back begin anew."),
            _verb("approve", "Let a session go on that was paused because it ran away."),
            _verb("audit", "Show who changed what, when and why."),
            _verb("alerts", "Show who is told of alerts, and send a test."),
            _verb("prices", "Show the price of a model, its source and its date."),
            _verb("router", "Train, calibrate and evaluate a learned router on labels of your own."),
            _verb("demo", "Watch simulated teams, providers and budgets; needs no key."),
            _verb("sim", "Serve the simulated providers on a port of their own."),
            _verb("version", "Print the versions of the program and of what it runs on."),
        )
    )
)


def load(name: str) -> typer.Typer:
    """Import the module of a verb and return it as a typer application.

    Raises:
        KeyError: there is no such verb.
        ImportError: its module, or something that it needs, is not installed.
    """
    import typer

    module = importlib.import_module(VERBS[name].module)
    app: typer.Typer | None = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False, rich_markup_mode=None, help=VERBS[name].help)
        app.command()(module.command)
    # Plain help: the same on a terminal, in a pipe and in the reference page.
    app.rich_markup_mode = None
    return app


def usage() -> str:
    """The text of `faregate --help`."""
    width = max(map(len, VERBS))
    lines = [f"  {name.ljust(width)}  {verb.help}" for name, verb in VERBS.items()]
    return "\n".join(
        (
            f"Usage: {PROGRAM} VERB [OPTIONS]",
            "",
            "Model router and cost guard for OpenAI-compatible clients.",
            "",
            "Verbs:",
            *lines,
            "",
            f"`{PROGRAM} VERB --help` tells the options of a verb; `{PROGRAM} --version` the version.",
            "",
        )
    )


def run(argv: Sequence[str]) -> int:
    """Run one verb and return the exit code; may also leave by `SystemExit`, as typer does."""
    name, rest = (argv[0], list(argv[1:])) if argv else ("--help", [])
    if name in ("--help", "-h", "help"):
        sys.stdout.write(usage())
        return 0
    if name in ("--version", "-V"):
        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        return 0
    if name not in VERBS:
        sys.stderr.write(_unknown(name))
        return EXIT_USAGE
    if name not in LASTING:
        # What a store lacks is said where it is served from, not by every command that looks into it.
        logging.getLogger("faregate.store").setLevel(logging.ERROR)
    load(name)(args=rest, prog_name=f"{PROGRAM} {name}")
    return 0


def _unknown(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, VERBS, n=1)
    hint = f' Did you mean "{close[0]}"?' if close else ""
    return f'{PROGRAM}: there is no verb "{name}".{hint}\n`{PROGRAM} --help` lists them all.\n'


def main() -> None:
    """Entry point. A configuration error is printed as findings, never as a traceback."""
    from router.errors import ConfigError
    from router.startup import hurry

    hurry()
    try:
        code = run(sys.argv[1:])
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        code = EXIT_CONFIG
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    sys.exit(code)
