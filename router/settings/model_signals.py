"""The fields of signals: what is found out by reading a prompt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from router.settings.types import Count, Duration, ModelName, Section, Share, Text, Usd, Words, all_defaults

Part = Annotated[Share, Field(ge=0, le=1)]


def _changed(section: Section, names: Iterable[str]) -> list[str]:
    """Those that are not what they are by default."""
    return [name for name in names if getattr(section, name) != type(section).model_fields[name].default]


class TargetSettings(Section):
    """What the middle of the difficulty is to hold: one of these."""

    share: Part | None = None
    """Share of requests that are difficult, of each language by itself: `30%`."""
    price_per_1000: Annotated[Usd, Field(gt=0)] | None = None
    """Likely cost of 1,000 requests if the difficult ones go to the large model of `between`, and the others to the small one."""
    quality: Part | None = None
    """Least mean quality, as a share of what the large model alone would reach, by the forecast of the learned router: `95%`."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in ("share", "price_per_1000", "quality") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("a target is one of share, price_per_1000, quality")
        return self


class BetweenSettings(Section):
    """The pair of models that a price is worked out for."""

    small: ModelName
    """Model or deployment for the easy requests."""
    large: ModelName
    """Model or deployment for the difficult ones."""


class PluginSettings(Section):
    """A signal that a detector of your own may work out."""

    plugin: Text | None = None
    """Detector of your own in place of the built-in one: a callable as `module:attribute`, or the name of an entry point of the group
    `faregate.signals`. It is imported when the configuration is loaded. Default: none."""


class PiiSettings(Section):
    """Personal data: the built-in patterns with check digits always look for it."""

    plugin: Text | None = None
    """Detector of your own that joins them: a callable as `module:attribute`, or the name of an entry point of the group
    `faregate.signals`. It is imported when the configuration is loaded. Default: none."""
    engine: Literal["builtin", "presidio"] = "builtin"
    """`presidio` has Presidio's recognisers look beside them; needs the extra: `pip install 'faregate[presidio]'`. Raise `timeout`."""
    entities: Words = ()
    """Presidio's names of what it is to look for: `[US_SSN, IP_ADDRESS]`. Default: what its recognisers look for by default in
    `language`, but for dates, addresses of pages and UUIDs; with a `model` also `PERSON` and `LOCATION`."""
    score: Part = 0.5
    """Least certainty of what Presidio finds, from 0 to 1."""
    language: Text = "en"
    """Language that Presidio reads texts in, as a code of ISO 639-1."""
    model: Text | None = None
    """spaCy pipeline that is installed, such as `en_core_web_sm`: it finds names of people and places, too. Nothing is downloaded.
    Default: none, patterns only."""

    @model_validator(mode="after")
    def _of_presidio(self) -> Self:
        idle = _changed(self, ("entities", "score", "language", "model"))
        if idle and self.engine != "presidio":
            raise ValueError(f"{', '.join(idle)}: used with engine: presidio only")
        return self


class DifficultySettings(Section):
    """How difficult a prompt is: what the learned router says."""

    plugin: Text | None = None
    """Detector of your own in place of the learned router, which says it from 0 to 1: as of `language`. Default: none."""
    model: Text = "builtin:v1"
    """Learned router: `builtin:v1`, or a file that `faregate router train` wrote; a relative path begins where this file is."""
    target: TargetSettings | None = None
    """What 0.5 is to mean: of each language by itself, a request is at 0.5 or above as often as holds the target; each worker goes by
    the requests that it saw. Default: none, a difficulty of 0.7 says that 70 % of the prompts of the training gain less from a large
    model."""
    window: Annotated[Count, Field(ge=50, le=10_000)] = 500
    """Requests of a language that the target is held by: the last ones."""
    between: BetweenSettings | None = None
    """Needed for `price_per_1000`."""

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if self.target is not None and self.target.price_per_1000 is not None and self.between is None:
            raise ValueError("price_per_1000 needs between: {small: ..., large: ...}, the models whose prices count")
        return self

    @model_validator(mode="after")
    def _one_that_says_it(self) -> Self:
        idle = _changed(self, ("model", "target", "window", "between"))
        if idle and self.plugin is not None:
            raise ValueError(f"{', '.join(idle)}: of the learned router, which plugin takes the place of; leave out one of them")
        return self


class SignalsSection(Section):
    """Signals: what is found out by reading a prompt. Each is worked out only where a rule reads it."""

    timeout: Annotated[Duration, Field(ge=0.001, le=5)] = 0.02
    """Longest wait for one signal of one request; after that it is unknown, and no condition on it holds."""
    unread: Literal["private", "ignore"] = "private"
    """What is thought of a text that could not be read through in search of personal data (too long, out of time, tokens, files,
    images): `private` takes it for personal data, of class `unknown`; `ignore` goes by what was read."""
    language: PluginSettings = all_defaults()
    """Which language a prompt is in."""
    task: PluginSettings = all_defaults()
    """What a prompt asks for."""
    pii: PiiSettings = all_defaults()
    """Personal data in what is sent."""
    difficulty: DifficultySettings = all_defaults()
    """How difficult a prompt is."""
