"""Labels from ratings: what clients said of answers, joined with their prompts, which only the operator has kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean

import msgspec

from router.domain.feedback import Feedback
from router.domain.records import SpendRecord
from router.errors import ConfigError
from router.learned.labels import Label

ANSWERED = frozenset({"ok", "cut", "client_left"})


class _Prompt(msgspec.Struct):
    request_id: str
    prompt: str


def read_prompts(path: Path) -> dict[str, str]:
    """Prompts by request id, of lines `{"request_id": ..., "prompt": ...}`.

    Raises:
        ConfigError: the file cannot be read, or a line is something else.
    """
    try:
        lines = [msgspec.json.decode(line, type=_Prompt) for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror or exc}") from None
    except msgspec.MsgspecError as exc:
        raise ConfigError(f'{path}: not JSON lines of {{"request_id", "prompt"}}: {exc}') from None
    return {line.request_id: line.prompt for line in lines}


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
        ConfigError: one of the models has no rating.
    """
    # The last attempt that was charged is the answer that the client has.
    served = {record.request_id: record for record in answers if record.outcome in ANSWERED and record.deployment}
    rated: dict[str, dict[str, list[float]]] = {}
    for request_id, record in served.items():
        said, prompt = given.get((request_id, record.key_id)), prompts.get(request_id)
        if prompt is not None and said is not None and said.rating is not None and record.model in (small, large):
            rated.setdefault(prompt, {}).setdefault(record.model, []).append(said.rating)
    means = {}
    for name in (small, large):
        ratings = [fmean(by[name]) for by in rated.values() if name in by]
        if not ratings:
            raise ConfigError(f'no answer of "{name}" to one of these prompts has a rating')
        means[name] = fmean(ratings)
    return [
        Label(prompt, fmean(by.get(small, [means[small]])), fmean(by.get(large, [means[large]])), "feedback")
        for prompt, by in rated.items()
    ]
