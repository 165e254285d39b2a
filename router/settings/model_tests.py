"""Files of policy tests: given this, a request that asks that is expected to go there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from policies.types import RejectionReason
from router.errors import ConfigError
from router.settings import loader
from router.settings.findings import Finding, shown
from router.settings.load import read_file
from router.settings.messages import explain, is_second_hand
from router.settings.types import Count, Duration, Flag, Instant, Section, Share, Text, Usd, Words, all_defaults

ENDING = ".test.yaml"
STATES = ("up", "down", "busy", "drained", "frozen")


def _state(value: object) -> object:
    """A word stands for the state alone."""
    return {"state": value} if isinstance(value, str) else value


def _budget(value: object) -> object:
    return 1.0 if value == "spent" else value


def _refused(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _named(value: str) -> str:
    if not value.strip():
        raise ValueError(f"{shown(value)} is no name")
    return value


class GivenDeployment(Section):
    """How deployments are at that moment."""

    state: Literal["up", "down", "busy", "drained", "frozen"] = "up"
    """`down`: failed lately and cooling down; `busy`: has all the calls that its `max_in_flight` allows."""
    in_flight: Count = 0
    """Calls under way."""
    first_token: Duration | None = None
    """Usual time to the first token. Default: never seen."""
    total: Duration | None = None
    """Usual time of a whole call. Default: never seen, or the time to the first token."""
    output_tokens: Count | None = None
    """Usual length of an answer. Default: never seen."""
    error_rate: Annotated[Share, Field(ge=0, le=1)] | None = None
    """Share of the calls of the last 30 s that failed, none of which led to a cooldown. Default: there was no call."""


Deployments = dict[Text, Annotated[GivenDeployment, BeforeValidator(_state)]]
Budgets = dict[Text, Annotated[Share, BeforeValidator(_budget)]]


class Given(Section):
    """What the world is like."""

    fleet: Deployments = Field(default_factory=dict)
    """State by the name of a deployment, a model or a provider: `down`, or an object. Default: all up, idle and never seen."""
    budgets: Budgets = Field(default_factory=dict)
    """Used share by the name of a budget: `95%`, or `spent`. Default: nothing is spent."""
    at: Instant | None = None
    """The time. Default: now."""
    draw: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """The number in [0, 1) that stands for chance."""


class Ask(Section):
    """A request. What is not said is as in a small chat call without a key."""

    model: Text
    """Route or model that is asked for."""
    text: Text | None = None
    """What the user says. Default: a greeting."""
    input_tokens: Annotated[Count, Field(le=2_000_000)] | None = None
    """Likely tokens of the input, in place of `text`."""
    stream: Flag = False
    """Whether a stream is asked for."""
    tools: Flag = False
    """Whether tools are offered."""
    json_schema: Flag = False
    """Whether an answer by a JSON schema is asked for."""
    image: Flag = False
    """Whether there is an image in it."""
    max_tokens: Count | None = None
    """Cap on output tokens."""
    body: dict[str, Any] = Field(default_factory=dict)
    """Any other members of the body; they win."""
    headers: dict[Text, Text] = Field(default_factory=dict)
    """Request headers."""
    tags: dict[Text, Text] = Field(default_factory=dict)
    """Tags of the request."""
    user: Text | None = None
    """The end user."""
    session: Text | None = None
    """The session."""
    team: Text | None = None
    """Ask as a key of this team."""
    key: Text | None = None
    """Ask as this key of the configuration."""


class Expect(Section):
    """What must come of it. Only what is written is looked at."""

    rule: Text | None = None
    """The rule that matches; `default` if none does."""
    kind: Text | None = None
    """The policy kind that orders."""
    model: Text | None = None
    """The model that serves it, with budgets as they are."""
    deployment: Text | None = None
    """The deployment that serves it."""
    provider: Text | None = None
    """The provider that serves it."""
    order: Words | None = None
    """All that are tried, in order: deployments or models."""
    never: Words | None = None
    """None of these deployments, models or providers is tried, whatever fails."""
    rejected: dict[Text, RejectionReason] = Field(default_factory=dict)
    """Why, by the name of a deployment or model that is out."""
    refused: Annotated[Text, BeforeValidator(_refused)] | None = None
    """Status, code or a part of the message of the refusal: `402`, `policy_refused`. Default: it must not be refused."""
    max_cost: Usd | None = None
    """The most that the first call may cost."""
    signals: dict[Text, Any] = Field(default_factory=dict)
    """What is found in the text: `{language: ko}`."""


def _something(value: Expect) -> Expect:
    if all(one is None or one in ({}, [], ()) for one in vars(value).values()):
        raise ValueError("nothing is expected, so that the test could not fail")
    return value


class Case(Section):
    """One test."""

    name: Annotated[Text, AfterValidator(_named)]
    """What it shows."""
    given: Given = all_defaults()
    """What the world is like, beside what the file says for all."""
    ask: Ask
    """The request."""
    expect: Annotated[Expect, AfterValidator(_something)]
    """What must come of it."""


class TestFile(Section):
    """A file of tests."""

    __test__ = False

    config: Text | None = None
    """The configuration, from this file's folder on. Default: `--config`, else the file of the same name without `.test`."""
    given: Given = all_defaults()
    """What the world is like in all tests."""
    tests: list[Case] = Field(min_length=1)
    """The tests."""


def read_tests(path: str) -> tuple[TestFile, list[int]]:
    """The tests of a file, and the line at which each begins.

    Raises:
        ConfigError: it cannot be read or has errors; all of them, one a line.
    """
    try:
        document = loader.parse(read_file(path), path)
    except loader.DocumentError as error:
        raise ConfigError(f"{path}:{error.mark.line}:{error.mark.column}: {error.message}") from None
    findings: list[Finding] = []
    try:
        found = TypeAdapter(TestFile).validate_python(document.data)
    except ValidationError as errors:
        findings = [explain(one, TestFile, document.data) for one in errors.errors(include_url=False) if not is_second_hand(one)]
    if findings or document.findings:
        raise ConfigError(document.report(findings))
    return found, [document.mark(("tests", number)).line for number in range(len(found.tests))]


def config_of(path: str, given: TestFile, chosen: str | None) -> str:
    """The configuration that a file of tests is for.

    Raises:
        ConfigError: it names none, and none has its name.
    """
    if given.config is not None:
        return str(Path(path).parent / given.config)
    if chosen is not None:
        return chosen
    beside = Path(path.removesuffix(ENDING) + ".yaml")
    if not path.endswith(ENDING) or not beside.exists():
        raise ConfigError(f"{path}:1:1: configuration: names no configuration; write config: router.yaml, or use --config")
    return str(beside)
