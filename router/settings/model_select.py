"""The fields of what selects models: names, or classes that must all fit."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from policies.ranges import RangeError, read_count, read_range, read_share, read_usd
from router.settings.findings import shown
from router.settings.types import Localities, Section, Share, Sizes, Text, WeightsClasses, Words, as_mapping, one_or_many

Capability = Literal["chat", "completions", "embeddings", "tools", "json_schema", "stream", "image", "audio", "file", "reasoning"]
Capabilities = Annotated[tuple[Capability, ...], BeforeValidator(one_or_many, json_schema_input_type=Capability | list[Capability])]
Score = Annotated[Share, Field(ge=0, le=1)]
USUAL: Final = "default"
"""Stands for all tasks that are not given."""


def _range_of(read: Any, example: str) -> Any:
    def check(value: object) -> object:
        try:
            read_range(str(value), read)
        except RangeError:
            raise ValueError(f"{shown(value)} is not a range; write {example}") from None
        return str(value)

    return BeforeValidator(check, json_schema_input_type=str)


ContextRange = Annotated[Text, _range_of(read_count, '">= 100k" or "8k..32k"')]
ScoreRange = Annotated[Text, _range_of(read_share, '">= 0.7" or "0.5..0.8"')]
UsdRange = Annotated[Text, _range_of(read_usd, '"< $2" or "1..5"')]


def _scores(value: object) -> object:
    return value if isinstance(value, dict) or value is None else {USUAL: value}


Quality = Annotated[dict[Text, Score], BeforeValidator(_scores, json_schema_input_type=float | str | dict[str, float | str])]
"""A score, or scores by task; `default` stands for all other tasks."""


class ClassSettings(Section):
    """Classes of models. All that are given must fit; of a list, any."""

    size: Sizes = ()
    """Any of these sizes."""
    weights: WeightsClasses = ()
    """Any of these."""
    locality: Localities = ()
    """Any of these."""
    domain: Words = ()
    """Any of these."""
    region: Words = ()
    """Any of these."""
    language: Words = ()
    """Strong in any of these, codes of ISO 639-1 such as `ko`."""
    provider: Words = ()
    """Served by any of these."""
    capabilities: Capabilities = ()
    """Capable of any of these."""
    context: ContextRange | None = None
    """Limit of input and output together: `">= 100k"`. Unit: tokens."""
    quality: ScoreRange | None = None
    """Usual quality: `">= 0.7"`. Unit: 0 to 1."""
    price: UsdRange | None = None
    """Price of output tokens when the configuration is loaded: `"< $2"`. Unit: USD per million tokens."""

    def says_nothing(self) -> bool:
        """Whether no class is given."""
        return not any(getattr(self, name) for name in ClassSettings.model_fields)


class UseSettings(ClassSettings):
    """Which models a rule leads to: names, or classes that must all fit."""

    model_config = ConfigDict(serialize_by_alias=True)

    names: Words = ()
    """Models or deployments, in order. A text or a list is short for it."""
    but: ClassSettings | None = Field(default=None, alias="not")
    """Not those that all of these classes fit."""

    @model_validator(mode="after")
    def _one_way(self) -> UseSettings:
        classes = not self.says_nothing() or self.but is not None
        if self.but is not None and self.but.says_nothing():
            raise ValueError("not is empty; name a class in it, such as {locality: cloud}")
        if self.names and classes:
            raise ValueError("give names or classes, not both")
        if not self.names and not classes:
            raise ValueError("selects nothing; name a model, or a class such as {size: small}")
        return self


UseEntry = Annotated[UseSettings, as_mapping("names", str | list[str] | UseSettings)]


class AtLeastSettings(Section):
    """What a model must reach to be tried."""

    quality: Score
    """Least quality, for the task of the request where the model has one for it. A model without a quality is out. Unit: 0 to 1."""
