"""Training: ridge regression on hashed features, by conjugate gradients. Needs numpy (`pip install 'faregate[train]'`)."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from policies.learned.features import features_of
from policies.learned.model import LEVELS, Head, Model
from router.errors import ConfigError
from router.learned.labels import FOLDS, Label, fold_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Numbers = NDArray[np.int64]

BITS: Final = 17
RIDGE: Final = 6.0
"""Strength of the penalty on weights, chosen by cross-validation on five pairs of 518 to 6,744 labels; half or twice as much changes the
APGR by less than 0.01."""
STEPS: Final = 30
LEAST_PROMPTS: Final = 2
"""Prompts that a feature must stand in to count less than one that is new."""
RANKS: Final = 129
MOST_POINTS: Final = 24
"""Of a calibration."""
LEAST_LABELS: Final = 20


def numpy() -> Any:
    """numpy, which only training needs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import numpy as np
    except ImportError:
        raise ConfigError("training needs numpy: pip install 'faregate[train]'") from None
    return np


class Design(msgspec.Struct):
    """Prompts as rows of a sparse matrix."""

    places: Any
    """Of all features, row after row."""
    values: Any
    starts: Any
    lengths: Any

    @property
    def rows(self) -> int:
        return len(self.starts)

    def times(self, weights: Floats) -> Floats:
        np = numpy()
        product: Floats = np.add.reduceat(self.values * weights[self.places], self.starts)
        return product

    def back(self, residuals: Floats, size: int) -> Floats:
        np = numpy()
        product: Floats = np.bincount(self.places, weights=self.values * np.repeat(residuals, self.lengths), minlength=size)
        return product


def hashed(labels: Sequence[Label], bits: int = BITS) -> list[Numbers]:
    """The features of each prompt, as places in the tables of a model."""
    np = numpy()
    mask = (1 << bits) - 1
    return [np.fromiter(sorted({mask & found for found in features_of(label.prompt)}), dtype=np.int64) for label in labels]


def importance_of(rows: Sequence[Numbers], bits: int) -> Floats:
    """The square of each feature's weight: the rarer, the more it says; in steps that fit into a byte.

    What was never seen has the full weight: it says nothing itself, and the more of it there is, the less the rest of a prompt says.
    """
    np = numpy()
    count = np.bincount(np.concatenate(rows), minlength=1 << bits)
    weight = np.log((len(rows) + 1) / (count + 0.5)).clip(min=0.0) ** 2
    weight = np.where(count < LEAST_PROMPTS, 0.0, weight)
    steps: Floats = np.where(count < LEAST_PROMPTS, LEVELS, np.round(weight / max(float(weight.max()), 1e-9) * LEVELS))
    return steps


def design(rows: Sequence[Numbers], importance: Floats) -> Design:
    """Rows of unit length."""
    np = numpy()
    lengths = np.fromiter(map(len, rows), dtype=np.int64)
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    places = np.concatenate(rows)
    squares = importance[places]
    norms = np.sqrt(np.add.reduceat(squares, starts)).clip(min=1.0)
    return Design(places=places, values=np.sqrt(squares) / np.repeat(norms, lengths), starts=starts, lengths=lengths)


def ridge(rows: Design, target: Floats, size: int, penalty: float) -> tuple[Floats, float]:
    """Weights and bias that fit the target best, with a penalty on the weights."""
    np = numpy()
    bias = float(target.mean())
    weights: Floats = np.zeros(size)
    left = rows.back(target - bias, size)
    step = left.copy()
    energy = float(left @ left)
    for _ in range(STEPS):
        if energy < 1e-12:
            break
        bent = rows.back(rows.times(step), size) + penalty * step
        pace = energy / float(step @ bent)
        weights += pace * step
        left -= pace * bent
        before, energy = energy, float(left @ left)
        step = left + energy / before * step
    return weights, bias


class Folds(msgspec.Struct):
    """Predictions for prompts that were not trained on."""

    small: Floats
    gap: Floats


def cross_validate(
    labels: Sequence[Label],
    *,
    bits: int = BITS,
    penalty: float = RIDGE,
    rows: list[Numbers] | None = None,
    base: Base | None = None,
) -> Folds:
    """Predict each fold with a model that was trained on the others; folds are by the text of the prompt."""
    np = numpy()
    rows = hashed(labels, bits) if rows is None else rows
    fold = np.fromiter((fold_of(label.prompt) for label in labels), dtype=np.int64)
    found = Folds(small=np.zeros(len(labels)), gap=np.zeros(len(labels)))
    for part in range(FOLDS):
        learn, asked = np.flatnonzero(fold != part), np.flatnonzero(fold == part)
        if len(learn) and len(asked):
            importance = _importance([rows[i] for i in learn], bits, base)
            known, others = design([rows[i] for i in learn], importance), design([rows[i] for i in asked], importance)
            for place, (target, predicted) in enumerate(zip(_targets(labels), (found.small, found.gap), strict=True)):
                before = np.zeros(len(labels)) if base is None else base.predicted[place]
                weights, bias = ridge(known, (target - before)[learn], 1 << bits, penalty)
                predicted[asked] = others.times(weights) + bias + before[asked]
    return found


def fit_predict(
    labels: Sequence[Label], rows: list[Numbers], others: list[Numbers], bits: int = BITS, penalty: float = RIDGE
) -> tuple[Floats, Floats]:
    """Train on `rows`, predict `others`: sums of the head for the small model and of the head for the gap."""
    importance = importance_of(rows, bits)
    known, asked = design(rows, importance), design(others, importance)
    predicted = []
    for target in _targets(labels):
        weights, bias = ridge(known, target, 1 << bits, penalty)
        predicted.append(asked.times(weights) + bias)
    return predicted[0], predicted[1]


def recalibrate(model: Model, labels: Sequence[Label]) -> Model:
    """The same model, whose promises (calibration, ranks) are those of other labels.

    Raises:
        ConfigError: too few labels.
    """
    if len(labels) < LEAST_LABELS:
        raise ConfigError(f"{len(labels)} labels are too few to calibrate on; at least {LEAST_LABELS} are needed, 200 are useful")
    sums = [model.raw(label.prompt) for label in labels]
    small = points([one[0] for one in sums], [label.small for label in labels])
    gap = points([one[1] for one in sums], [label.gap for label in labels])
    return msgspec.structs.replace(
        model,
        small=msgspec.structs.replace(model.small, calibration=small),
        gap=msgspec.structs.replace(model.gap, calibration=gap),
        ranks=ranks_of([one[1] for one in sums]),
    )


def _targets(labels: Sequence[Label]) -> tuple[Floats, Floats]:
    np = numpy()
    return np.array([label.small for label in labels]), np.array([label.gap for label in labels])


def train(labels: Sequence[Label], *, bits: int = BITS, penalty: float = RIDGE, start: Model | None = None) -> Model:
    """A model from labels. What it promises (calibration, ranks) is worked out on prompts that it was not trained on.

    Args:
        labels: of one pair of models, or of several whose gaps mean the same.
        bits: of a hash that count; a table has `2 ** bits` places.
        penalty: on weights.
        start: a model to begin with: only what the labels say otherwise is learned. It then has the bits of that model.

    Raises:
        ConfigError: too few labels, or numpy is missing.
    """
    if len(labels) < LEAST_LABELS:
        raise ConfigError(f"{len(labels)} labels are too few to learn from; at least {LEAST_LABELS} are needed, 200 are useful")
    np = numpy()
    bits = bits if start is None else start.bits
    rows = hashed(labels, bits)
    base = None if start is None else Base(start, rows)
    folds = cross_validate(labels, bits=bits, penalty=penalty, rows=rows, base=base)
    importance = _importance(rows, bits, base)
    known = design(rows, importance)
    heads = []
    for place, (target, predicted) in enumerate(zip(_targets(labels), (folds.small, folds.gap), strict=True)):
        before = 0.0 if base is None else base.predicted[place]
        weights, bias = ridge(known, target - before, 1 << bits, penalty)
        if base is not None:
            weights, bias = weights + base.weights[place], bias + base.biases[place]
        heads.append(_head(weights, bias, importance, points(predicted.tolist(), target.tolist())))
    return Model(
        bits=bits,
        importance=importance.astype(np.uint8).tobytes(),
        small=heads[0],
        gap=heads[1],
        ranks=ranks_of(folds.gap.tolist()),
    )


class Base:
    """What an earlier model says of prompts, and its numbers as they were before they were folded."""

    def __init__(self, model: Model, rows: list[Numbers]) -> None:
        np = numpy()
        self.importance: Floats = np.frombuffer(bytes(model.importance), dtype=np.uint8).astype(float)
        spread = np.sqrt(self.importance.clip(min=1.0))
        heads = (model.small, model.gap)
        self.weights: list[Floats] = [np.array(head.weights, dtype=float) * head.scale / spread for head in heads]
        self.biases = [head.bias for head in heads]
        known = design(rows, _own(self.importance, importance_of(rows, model.bits)))
        self.predicted: list[Floats] = [known.times(self.weights[place]) + self.biases[place] for place in range(2)]


def _own(importance: Floats, found: Floats) -> Floats:
    """What the earlier model knows keeps its importance; what is new gets its own."""
    np = numpy()
    either: Floats = np.where(importance < LEVELS, importance, found)
    return either


def _importance(rows: Sequence[Numbers], bits: int, base: Base | None) -> Floats:
    found = importance_of(rows, bits)
    return found if base is None else _own(base.importance, found)


def _head(weights: Floats, bias: float, importance: Floats, calibration: tuple[tuple[float, float], ...]) -> Head:
    np = numpy()
    folded = weights * np.sqrt(importance)
    scale = max(float(np.abs(folded).max()), 1e-12) / 32_767
    return Head(
        weights=array("h", np.round(folded / scale).astype(np.int16).tobytes()), scale=float(scale), bias=bias, calibration=calibration
    )


def ranks_of(predicted: Sequence[float]) -> tuple[float, ...]:
    """Sums that cut the prompts into equal parts; strictly rising."""
    ordered = sorted(predicted)
    cuts = [ordered[min(len(ordered) - 1, index * len(ordered) // (RANKS - 1))] for index in range(RANKS)]
    rising: list[float] = []
    for cut in cuts:
        if not rising or cut > rising[-1]:
            rising.append(cut)
    return tuple(rising) if len(rising) > 1 else (ordered[0], ordered[0] + 1.0)


def points(predicted: Sequence[float], true: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """What came true, as a rising function of what was predicted (isotonic regression), as few points."""
    blocks: list[list[float]] = []
    for value, truth in sorted(zip(predicted, true, strict=True)):
        blocks.append([value, truth, 1.0])
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][2] >= blocks[-1][1] * blocks[-2][2]:
            last = blocks.pop()
            blocks[-1] = [blocks[-1][0] + last[0], blocks[-1][1] + last[1], blocks[-1][2] + last[2]]
    fitted = [(total / count, truth / count) for total, truth, count in blocks]
    step = max(1, -(-len(fitted) // MOST_POINTS))
    kept = fitted[::step] + ([fitted[-1]] if (len(fitted) - 1) % step else [])
    return tuple((float(x), float(y)) for x, y in kept)
