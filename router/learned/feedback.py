"""Labels from ratings: what clients said of answers, joined with their prompts, which only the operator has kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import msgspec

from router.domain.feedback import Feedback
from router.domain.prompt_text import prompt_of
from router.domain.records import SpendRecord
from router.errors import ConfigError
from router.known import MOST_SHOWN, meant
from router.learned.labels import Label

ANSWERED = frozenset({"ok", "cut", "client_left"})


class KeptPrompt(msgspec.Struct):
    """A line of `server.keep_prompts`."""

    request_id: str
    prompt: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()

    @property
    def text(self) -> str:
        """What is asked, as the learned router reads it in a request."""
        return prompt_of(bytes(self.messages or self.prompt), chat=bool(self.messages)).asked


def kept_prompts(path: Path) -> dict[str, KeptPrompt]:
    """By request id, of lines with `request_id` and `prompt` or `messages`, as `server.keep_prompts` writes them.

    Raises:
        ConfigError: the file cannot be read, or a line is something else.
    """
    try:
        lines = [msgspec.json.decode(line, type=KeptPrompt) for line in path.read_bytes().splitlines() if line.strip()]
        if not all(line.prompt or line.messages for line in lines):
            raise msgspec.ValidationError("one has neither a `prompt` nor `messages`")
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror or exc}") from None
    except msgspec.MsgspecError as exc:
        raise ConfigError(f'{path}: not JSON lines of {{"request_id", "prompt" or "messages"}}: {exc}') from None
    return {line.request_id: line for line in lines}


def read_prompts(path: Path) -> dict[str, str]:
    """What is asked, by request id. Raises `ConfigError` as `kept_prompts` does."""
    return {request_id: line.text for request_id, line in kept_prompts(path).items()}


def labels_of(
    prompts: Mapping[str, str],
    answers: Iterable[SpendRecord],
    given: Mapping[tuple[str, str], Feedback],
    *,
    small: str,
    large: str,
) -> list[Label]:
    """A label for each rated prompt that one of the two models has answered.

    Nobody rates what another model would have said: for the model that was not asked stands the mean of its ratings. A text that both have
    answered has both ratings.

    Raises:
        ConfigError: one of the models has no rating; it names those that have.
    """
    rated = _ratings(prompts, answers, given)
    means = {}
    for name in (small, large):
        ratings = [fmean(by[name]) for by in rated.values() if name in by]
        if not ratings:
            raise ConfigError(_not_rated(name, {each for by in rated.values() for each in by}))
        means[name] = fmean(ratings)
    return [
        Label(prompt, fmean(by.get(small, [means[small]])), fmean(by.get(large, [means[large]])), "feedback")
        for prompt, by in rated.items()
        if small in by or large in by
    ]


def doubt(labels: Sequence[Label], *, small: str, large: str) -> str:
    """What is odd about labels of ratings: the small model is rated higher than the large one. Empty: nothing is."""
    of_small, of_large = fmean(label.small for label in labels), fmean(label.large for label in labels)
    if of_small <= of_large:
        return ""
    return (
        f'the mean rating of "{small}", the small model, is {of_small:.2f}, that of "{large}", the large one, {of_large:.2f}: are they '
        f"swapped (then: --small {large} --large {small}), or did only hard prompts go to the large one?"
    )


def _ratings(
    prompts: Mapping[str, str], answers: Iterable[SpendRecord], given: Mapping[tuple[str, str], Feedback]
) -> dict[str, dict[str, list[float]]]:
    """Ratings of each prompt, by the model that answered it."""
    # The last attempt that was charged is the answer that the client has.
    served = {record.request_id: record for record in answers if record.outcome in ANSWERED and record.deployment}
    rated: dict[str, dict[str, list[float]]] = {}
    for request_id, record in served.items():
        said, prompt = given.get((request_id, record.key_id)), prompts.get(request_id)
        if prompt is not None and said is not None and said.rating is not None:
            rated.setdefault(prompt, {}).setdefault(record.model, []).append(said.rating)
    return rated


def _not_rated(name: str, rated: Collection[str]) -> str:
    missing = f'no answer of "{name}" to one of these prompts has a rating'
    if not rated:
        return f"{missing}, and none of another model"
    return f"{missing}; rated are: {', '.join(sorted(rated)[:MOST_SHOWN])}. {meant(name, sorted(rated))}".rstrip()
