"""Signals: what is found out by reading a prompt, and only when a rule asks for it.

A rule that reads a signal which is not there yet raises `MissingSignal`. Then the detector runs in a thread, within a time budget,
the value is added to the facts, and the decision is made again. What cannot be told in time is None, and no condition holds for it.
The texts of each key are read in turn with those of others; see `router.turns`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from policies.learned.thresholds import Thresholds
from policies.types import SignalName, Signals
from router.call import Call
from router.domain.estimate import expected_nusd
from router.domain.prompt_text import Prompt, prompt_of
from router.domain.request import INPUTS
from router.fleet import USUAL_LENGTH
from router.metrics import Metrics
from router.signal_plugins import Plugged, PluginFailed, threads
from router.snapshot import SignalRules
from router.turns import Crowded, Steps, Turns

if TYPE_CHECKING:
    from policies.learned.model import Scores


class Hardness(msgspec.Struct, frozen=True, gc=False):
    """What the learned router says of a prompt, before a target is looked at."""

    scores: Scores
    language: str


Found = str | float | frozenset[str] | Hardness | None
Value = str | float | frozenset[str] | None
Detector = Callable[[Prompt], Found | Generator[None, None, Found]]
"""One that takes long yields between its steps."""

JOINED: Final = frozenset({"pii"})
"""Signals whose plug-ins join what is built in; of the others a plug-in takes its place."""
UNREAD: Final = frozenset({"unknown"})
"""Classes of personal data of a text that was not read through."""
NO_LANGUAGE: Final = "none"
SAMPLES: Final = (
    "How do I sort a list of words in Python? Write to jane.doe@example.com, or call +1 202 555 0143.\n```python\nx = 1\n```",
    "파이썬에서 단어 목록을 정렬하는 방법을 알려 주세요. 주민등록번호는 900101-1234568 입니다.",
)
"""What detectors read before there is a request."""


def _language(rules: SignalRules) -> Detector:
    from policies.signals.language import language_of

    return lambda prompt: language_of(prompt.asked)


def _task(rules: SignalRules) -> Detector:
    from policies.signals.task import task_of

    return lambda prompt: task_of(prompt.asked)


def _pii(rules: SignalRules) -> Detector:
    from policies.signals.pii import pii_steps

    def detect(prompt: Prompt) -> Generator[None, None, Found]:
        found = yield from pii_steps(prompt.whole)
        if not prompt.readable:
            found |= UNREAD
        return found | (yield from pii_steps(prompt.beside)) if prompt.beside else found

    return detect


def _difficulty(rules: SignalRules) -> Detector:
    from policies.signals.language import language_of
    from router.learned.files import BUILTIN, load_model

    model = rules.difficulty.model or load_model(BUILTIN)[0]
    targeted = rules.difficulty.target is not None

    def detect(prompt: Prompt) -> Found:
        if not prompt.asked.strip():
            return None
        if not targeted:
            return model.difficulty(prompt.asked)
        return Hardness(model.scores(prompt.asked), language_of(prompt.asked) or NO_LANGUAGE)

    return detect


_DETECTORS: Final[Mapping[SignalName, Callable[[SignalRules], Detector]]] = MappingProxyType(
    {"language": _language, "task": _task, "pii": _pii, "difficulty": _difficulty}
)
"""How to get a detector: loaded when it is first asked for."""


class PromptSignals:
    """Works signals out under one configuration."""

    def __init__(
        self,
        rules: SignalRules,
        metrics: Metrics | None = None,
        detectors: Mapping[SignalName, Detector] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        lengths: Callable[[str, int], int] = lambda deployment, input_tokens: USUAL_LENGTH,
    ) -> None:
        """`detectors`: instead of the ones that the configuration names. `clock`: what deadlines are told by. `lengths`: tokens of a
        likely answer of a deployment to an input of so many tokens."""
        self._rules = rules
        self._metrics = metrics
        self._clock = clock
        self._lengths = lengths
        self._detectors: dict[SignalName, Detector] = dict(detectors or {})
        self._turns = Turns(threads("signals"))
        self._plugged: dict[SignalName, Plugged] = {name: Plugged(name, plugins) for name, plugins in rules.plugins.items()}
        target = rules.difficulty.target
        self._thresholds = None if target is None else Thresholds(target, size=rules.difficulty.window)

    async def find(self, call: Call, name: SignalName) -> None:
        """Add a signal to what is known of a call. It is set when this returns, to None if it could not be told.

        It takes no longer than the call has: what comes behind says that its deadline has passed.
        """
        left = None if call.deadline is None else max(0.0, call.deadline - self._clock())
        if name not in self._detectors:
            await self._load_within(name, left)
            left = None if call.deadline is None else max(0.0, call.deadline - self._clock())
        began = time.monotonic()
        found: Found = None
        outcome = "ok"
        seconds = self._rules.timeout_seconds
        try:
            async with asyncio.timeout(seconds if left is None else min(seconds, left)):
                for turns, steps in self._stages(call, name):
                    found = _joined(found, await turns.read(call.principal.key_id, steps))
        except (TimeoutError, Crowded):
            found, outcome = _cut_short(found), "timeout"
        except PluginFailed as problem:
            found, outcome = _cut_short(found), "error"
            self._plugged[name].tell(problem)
        self._add(call, name, found, outcome, time.monotonic() - began)

    async def _load_within(self, name: SignalName, seconds: float | None) -> None:
        """Load a detector: once per configuration, and that is not the request's fault. Only its own deadline ends the wait."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.get_running_loop().run_in_executor(threads("signals"), self._load, name)
        except TimeoutError:
            return

    def find_now(self, call: Call, name: SignalName) -> None:
        """The same, without a time budget and for one who can wait."""
        self._load(name)
        found: Found = None
        outcome = "ok"
        try:
            for _, steps in self._stages(call, name):
                found = _joined(found, _last(steps))
        except PluginFailed as problem:
            found, outcome = _cut_short(found), "error"
            self._plugged[name].tell(problem)
        self._add(call, name, found, outcome, 0.0)

    async def warm(self, names: Iterable[SignalName]) -> None:
        """Load detectors and have each read a text, so that the first request finds them as fast as all others."""
        run = asyncio.get_running_loop().run_in_executor
        for name in names:
            plugged = self._plugged.get(name)
            await run(threads("signals"), self._load, name)
            if plugged is None or name in JOINED:
                await run(threads("signals"), _try, self._detectors[name])
            if plugged is not None:
                await plugged.warm(partial(_try, plugged.steps))

    def _load(self, name: SignalName) -> None:
        if name not in self._detectors:
            instead = name in self._plugged and name not in JOINED
            self._detectors[name] = self._plugged[name].steps if instead else _DETECTORS[name](self._rules)

    def _stages(self, call: Call, name: SignalName) -> list[tuple[Turns, Steps]]:
        """What is done, and whose turn it takes: plug-ins have a thread of their own."""
        plugged = self._plugged.get(name)
        if plugged is None:
            return [(self._turns, self._steps(call, name))]
        if name not in JOINED:
            return [(plugged.turns, self._steps(call, name))]
        return [(self._turns, self._steps(call, name)), (plugged.turns, self._steps(call, name, plugged.steps))]

    def _steps(self, call: Call, name: SignalName, detect: Detector | None = None) -> Steps:
        prompt = call.prompt
        if prompt is None:
            name_of_input = INPUTS[call.operation]
            members = {member: raw for member, raw in call.request.fields.items() if member != name_of_input}
            prompt = call.prompt = prompt_of(call.request.fields[name_of_input], chat=call.operation == "chat", members=members)
            yield
        # Not there yet only if its loading took longer than the call had: nobody waits for this.
        self._load(name)
        found = (detect or self._detectors[name])(prompt)
        return (yield from found) if isinstance(found, Generator) else found

    def _add(self, call: Call, name: SignalName, found: Found, outcome: str, seconds: float) -> None:
        if found is None and outcome == "ok":
            outcome = "unknown"
        value = self._targeted(call, found) if isinstance(found, Hardness) else found
        if name == "pii":
            value = self._careful(value)
        call.signals = _with(call.signals, name, value)
        if self._metrics is not None:
            self._metrics.signal_read(signal=name, outcome=outcome, seconds=seconds)

    def _careful(self, classes: Value) -> Value:
        """A text that was not read through counts as the configuration says."""
        if self._rules.unread_is_private:
            return UNREAD if classes is None else classes
        return classes - UNREAD if isinstance(classes, frozenset) else None

    def _targeted(self, call: Call, found: Hardness) -> float:
        """The difficulty whose middle holds the target."""
        # Only where there is a target does a detector leave it to this.
        assert self._thresholds is not None  # noqa: S101
        small, large = (self._usd(call, name) for name in (self._rules.difficulty.small, self._rules.difficulty.large))
        return self._thresholds.difficulty(found.language, found.scores, small_usd=small, large_usd=large)

    def _usd(self, call: Call, deployment: str) -> float:
        """What the call will likely cost there, if its answer is as long as those to such inputs were; 0 if no price is known."""
        if not deployment:
            return 0.0
        length = self._lengths(deployment, call.request.shape.tokens_likely)
        return (expected_nusd(call.request, call.snapshot.deployments[deployment], length) or 0) / 1e9


def _joined(one: Found, other: Found) -> Found:
    return one | other if isinstance(one, frozenset) and isinstance(other, frozenset) else other


def _cut_short(found: Found) -> Found:
    """What was found before a plug-in failed or time ran out: the text was not read through."""
    return found | UNREAD if isinstance(found, frozenset) else None


def _last(steps: Steps) -> Found:
    """What all steps come to."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Found = end.value
            return found


def _try(detect: Detector) -> None:
    """Read the samples."""
    for text in SAMPLES:
        found = detect(Prompt(text, text))
        if isinstance(found, Generator):
            _last(found)


def _with(signals: Signals, name: SignalName, value: Value) -> Signals:
    changes: dict[str, Value] = {name: value}
    return msgspec.structs.replace(signals, **changes)
