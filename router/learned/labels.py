"""Labelled prompts: what a learned router is trained, calibrated and evaluated on. JSON lines, plain or gzipped."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

import msgspec

from router.errors import ConfigError

FOLDS: Final = 5
_NOT_WORDS: Final = re.compile(r"\W+")


class _Line(msgspec.Struct):
    prompt: str
    small: float | None = None
    large: float | None = None
    scores: dict[str, float | None] = {}
    cost_usd: dict[str, float] = {}
    bench: str = ""
    cat: str = ""
    lang: str = ""


class Label(msgspec.Struct, frozen=True):
    """A prompt, and how good the answers of a small and a large model were, from 0 to 1."""

    prompt: str
    small: float
    large: float
    bench: str = ""
    """Where it comes from."""
    category: str = ""
    small_usd: float | None = None
    large_usd: float | None = None

    @property
    def gap(self) -> float:
        """By how much the large one is better."""
        return self.large - self.small


def read_labels(path: Path, *, small: Collection[str] = (), large: Collection[str] = ()) -> list[Label]:
    """The labels of a file.

    Each line is `{"prompt", "small", "large"}` with scores from 0 to 1, or `{"prompt", "scores": {model: score}}`. Of the latter,
    `small` and `large` name the models whose mean counts. Without names: two models are taken as they are, the better one as the large
    one; of more, the mean of the lesser half stands for the small one and the mean of the best quarter for the large one.

    Raises:
        ConfigError: the file cannot be read, or a line is not as it should be.
    """
    try:
        data = path.read_bytes()
        text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        lines = [msgspec.json.decode(line, type=_Line) for line in text.splitlines() if line.strip()]
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror or exc}") from None
    except (msgspec.MsgspecError, EOFError) as exc:
        raise ConfigError(f"{path}: not JSON lines of labels: {exc}") from None
    low, high = _pair(lines, small, large)
    labels = [label for line in lines if (label := _label(line, low, high, path.name.partition(".")[0])) is not None]
    if not labels:
        raise ConfigError(f"{path}: no line has scores of both {_named(small, 'a small model')} and {_named(large, 'a large one')}")
    return labels


def _named(names: Collection[str], otherwise: str) -> str:
    return " or ".join(sorted(names)) or otherwise


def _pair(lines: Sequence[_Line], small: Collection[str], large: Collection[str]) -> tuple[frozenset[str], frozenset[str]]:
    """The models that stand for the small and for the large one."""
    if small and large:
        return frozenset(small), frozenset(large)
    names = sorted({name for line in lines for name in line.scores})
    means = {name: fmean(score for line in lines if (score := line.scores.get(name)) is not None) for name in names}
    ordered = sorted(names, key=lambda name: means[name])
    half, quarter = max(1, len(ordered) // 2), max(1, len(ordered) // 4)
    return frozenset(ordered[:half]), frozenset(ordered[-quarter:])


def _label(line: _Line, low: frozenset[str], high: frozenset[str], source: str) -> Label | None:
    bench = line.bench or source
    if line.small is not None and line.large is not None:
        return Label(line.prompt, line.small, line.large, bench, line.cat)
    small = [score for name in low if (score := line.scores.get(name)) is not None]
    large = [score for name in high if (score := line.scores.get(name)) is not None]
    if not small or not large:
        return None
    costs = [_mean([line.cost_usd[name] for name in names if name in line.cost_usd]) for names in (low, high)]
    return Label(line.prompt, fmean(small), fmean(large), bench, line.cat, *costs)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def fold_of(prompt: str, folds: int = FOLDS) -> int:
    """The part of the data that a prompt belongs to, by its text: the same question never stands in two parts."""
    words = _NOT_WORDS.sub("", prompt.lower()).encode()
    return int.from_bytes(hashlib.sha256(words).digest()[:8]) % folds


def without_texts(labels: Iterable[Label], others: Iterable[Label]) -> list[Label]:
    """Those whose text does not stand in `others`."""
    known = {_NOT_WORDS.sub("", label.prompt.lower()) for label in others}
    return [label for label in labels if _NOT_WORDS.sub("", label.prompt.lower()) not in known]
