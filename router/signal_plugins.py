"""Detectors of an operator's own: how they are found, and how what they say is read.

The port is `router.signal_port.Plugin`. `router.presidio` makes one; docs/signals.md says how to write another.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from operator import attrgetter
from types import MappingProxyType
from typing import Final

import structlog

from policies.signals.names import PII_CLASSES, TASKS
from policies.types import SignalName
from router.domain.prompt_text import Prompt
from router.errors import ConfigError
from router.signal_port import Plugin
from router.turns import Turns

log = structlog.get_logger("faregate.signals")

Value = str | float | frozenset[str] | None
Detect = Callable[[Prompt], Generator[None, None, Value]]

THREADS: Final = 1
"""For all that is built in, and for the plug-ins of each signal: they share one interpreter lock, so that more would only make each
other late. A plug-in that hangs has no signal unknown but its own."""
READY_SECONDS: Final = 60.0
"""Longest wait for a plug-in to read its first texts: then the service begins without it."""
GROUP: Final = "faregate.signals"
"""Of entry points: a distribution may give its plug-in a name."""
OTHER: Final = "other"
"""The class of personal data that has none here."""
_CODE: Final = re.compile(r"[a-z]{2,3}")


class PluginFailed(Exception):
    """A plug-in raised, or what it said is no value of its signal. Says where; never what was read."""


@cache
def threads(of: str) -> ThreadPoolExecutor:
    """Where texts are read, for the whole process."""
    return ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix=of)


class Plugged:
    """The plug-ins of one signal: each reads the text after the other, in a thread of theirs."""

    def __init__(self, signal: SignalName, plugins: Sequence[Plugin]) -> None:
        self.signal = signal
        self._threads = threads(f"plug-ins of {signal}")
        self.turns = Turns(self._threads)
        self._detect = tuple([detector(signal, plugin) for plugin in plugins])
        self._told: set[str] = set()

    def steps(self, prompt: Prompt) -> Generator[None, None, Value]:
        """Read a text. Raises `PluginFailed`."""
        found: Value = None
        for detect in self._detect:
            more = yield from detect(prompt)
            found = found | more if isinstance(found, frozenset) and isinstance(more, frozenset) else more
        return found

    async def warm(self, read: Callable[[], None]) -> None:
        """Have it read its first texts. What is wrong with it is told, and does not keep the service from beginning."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                await asyncio.get_running_loop().run_in_executor(self._threads, read)
        except TimeoutError:
            self.tell(PluginFailed(f"not ready after {READY_SECONDS:.0f} s"))
        except PluginFailed as problem:
            self.tell(problem)

    def tell(self, problem: PluginFailed) -> None:
        """Log it, once."""
        text = str(problem)
        if text not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(text)
            log.error("a plug-in for a signal failed: what it should have found out is unknown", signal=self.signal, problem=text)


_MOST_TOLD: Final = 100
"""Problems that are logged."""


def load_plugin(name: str) -> Plugin:
    """Import what `module:attribute` names, or an entry point of the group `faregate.signals`.

    Raises:
        ConfigError: there is nothing of that name, importing it fails, or it is no function that could be called.
    """
    module, colon, attribute = name.partition(":")
    try:
        found = attrgetter(attribute)(import_module(module)) if colon else _entry_point(name)
    except ConfigError:
        raise
    # The code is not ours: anything may happen in it.
    except Exception as exc:  # noqa: BLE001
        raise ConfigError(f"{_named(name)} cannot be imported: {type(exc).__name__}: {exc}; {_WAY_OUT}") from None
    if inspect.isclass(found):
        raise ConfigError(f'"{name}" is a class; name a function, or an instance that can be called')
    if not callable(found):
        raise ConfigError(f'"{name}" cannot be called; name a function that takes a text')
    if inspect.iscoroutinefunction(found) or inspect.isasyncgenfunction(found):
        raise ConfigError(f'"{name}" is asynchronous; plug-ins are called in a thread, so name a plain function')
    plugin: Plugin = found
    return plugin


_WAY_OUT: Final = "install its package where faregate is installed, or put its folder into PYTHONPATH"


def _named(name: str) -> str:
    return f'the plug-in "{name}"'


def _entry_point(name: str) -> object:
    # Looking through all distributions takes long, and only names without a module need it.
    from importlib.metadata import entry_points

    known = entry_points(group=GROUP)
    if name not in known.names:
        names = f"; known: {', '.join(sorted(known.names))}" if known else ""
        raise ConfigError(f'there is no entry point "{name}" in {GROUP}{names}; write module:attribute, or install its package')
    return known[name].load()


def detector(signal: SignalName, plugin: Plugin) -> Detect:
    """The plug-in as detectors are called here, a step at a time. Its steps raise `PluginFailed`."""
    read, checked = _TEXTS.get(signal, _asked), _CHECKED[signal]

    def detect(prompt: Prompt) -> Generator[None, None, Value]:
        text = read(prompt)
        said: list[object] = []
        try:
            given = plugin(text)
            if isinstance(given, Generator):
                given = yield from _all_of(given, said)
            return checked(given, said)
        # As above. Of its message nothing is told: the text may be in it.
        except Exception as exc:  # noqa: BLE001
            raise PluginFailed(f"{type(exc).__name__} {_place(exc)}") from None

    return detect


def _all_of(steps: Generator[object, None, object], said: list[object]) -> Generator[None, None, object]:
    """What a generator returns; what it yields is added to `said`."""
    while True:
        try:
            said.append(next(steps))
        except StopIteration as end:
            returned: object = end.value
            return returned
        yield


def _place(problem: BaseException) -> str:
    """Where it was raised."""
    place = problem.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return "" if place is None else f"in {place.tb_frame.f_code.co_filename}:{place.tb_lineno}"


def _asked(prompt: Prompt) -> str:
    return prompt.asked


def _all(prompt: Prompt) -> str:
    return f"{prompt.whole}\n{prompt.beside}" if prompt.beside else prompt.whole


def _classes(given: object, said: list[object]) -> frozenset[str]:
    if isinstance(given, str) or not isinstance(given, Iterable | None):
        raise TypeError("pii takes a list of classes")
    found = [*(given or ()), *(each for each in said if each is not None)]
    if not all(isinstance(each, str) for each in found):
        raise TypeError("classes are text")
    return frozenset(each if each in PII_CLASSES else OTHER for each in map(str, found))


def _task(given: object, said: list[object]) -> str | None:
    if given is not None and given not in TASKS:
        raise ValueError("not a task")
    return None if given is None else str(given)


def _language(given: object, said: list[object]) -> str | None:
    if given is not None and not (isinstance(given, str) and _CODE.fullmatch(given)):
        raise ValueError("not a code of ISO 639")
    return given


def _difficulty(given: object, said: list[object]) -> float | None:
    if given is None:
        return None
    # A number of a library's own is one, too.
    number = float(given)  # type: ignore[arg-type]
    if not 0 <= number <= 1:
        raise ValueError("not from 0 to 1")
    return number


_TEXTS: Final[Mapping[SignalName, Callable[[Prompt], str]]] = MappingProxyType({"pii": _all})
_CHECKED: Final[Mapping[SignalName, Callable[[object, list[object]], Value]]] = MappingProxyType(
    {"pii": _classes, "task": _task, "language": _language, "difficulty": _difficulty}
)
