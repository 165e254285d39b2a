"""Files of trained models: a line that names the format, a line of JSON (the manifest), then the numbers, little-endian.

No pickle: nothing in such a file is run. The manifest holds a checksum of the numbers and says what they were trained on.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec

from policies.learned.features import VERSION as FEATURES
from policies.learned.model import Head, Model
from router.errors import ConfigError

MAGIC: Final = b"FAREGATE-ROUTER 1\n"
BUILTIN: Final = "builtin:v1"
MAX_BYTES: Final = 4_000_000
MAX_BITS: Final = 20
_FOLDER: Final = "artefacts"


class _Head(msgspec.Struct):
    scale: float
    bias: float
    calibration: list[tuple[float, float]]


class _Manifest(msgspec.Struct):
    features: int
    bits: int
    sha256: str
    """Of everything after the manifest's line."""
    small: _Head
    gap: _Head
    ranks: list[float]
    trained: dict[str, Any] = {}


def read_bytes(data: bytes, name: str) -> tuple[Model, Mapping[str, Any]]:
    """A model and what its manifest says of the training.

    Raises:
        ConfigError: it is no such file, it was damaged, or it needs another release.
    """
    head, _, payload = data.removeprefix(MAGIC).partition(b"\n")
    if not data.startswith(MAGIC) or len(data) > MAX_BYTES:
        raise ConfigError(f"{name}: this is no file of `faregate router train`")
    try:
        manifest = msgspec.json.decode(head, type=_Manifest)
    except msgspec.MsgspecError as exc:
        raise ConfigError(f"{name}: its manifest cannot be read: {exc}") from None
    if manifest.features != FEATURES:
        raise ConfigError(f"{name}: trained with features of version {manifest.features}, this release has {FEATURES}; train it again")
    if not 1 <= manifest.bits <= MAX_BITS or len(payload) != 5 << manifest.bits or len(manifest.ranks) < 2:
        raise ConfigError(f"{name}: its numbers are not as many as its manifest says")
    if hashlib.sha256(payload).hexdigest() != manifest.sha256:
        raise ConfigError(f"{name}: its checksum is wrong; it was damaged or changed")
    size = 1 << manifest.bits
    model = Model(
        bits=manifest.bits,
        importance=payload[:size],
        small=_head(manifest.small, payload[size : 3 * size]),
        gap=_head(manifest.gap, payload[3 * size :]),
        ranks=tuple(manifest.ranks),
    )
    return model, manifest.trained


def _head(given: _Head, raw: bytes) -> Head:
    weights = array("h")
    weights.frombytes(raw)
    if sys.byteorder == "big":
        weights.byteswap()
    return Head(weights=weights, scale=given.scale, bias=given.bias, calibration=tuple(given.calibration))


def write_bytes(model: Model, trained: Mapping[str, Any]) -> bytes:
    """The file of a model."""
    payload = bytes(model.importance) + _raw(model.small.weights) + _raw(model.gap.weights)
    manifest = _Manifest(
        features=FEATURES,
        bits=model.bits,
        sha256=hashlib.sha256(payload).hexdigest(),
        small=_Head(model.small.scale, model.small.bias, list(model.small.calibration)),
        gap=_Head(model.gap.scale, model.gap.bias, list(model.gap.calibration)),
        ranks=list(model.ranks),
        trained=dict(trained),
    )
    return MAGIC + msgspec.json.encode(manifest) + b"\n" + payload


def _raw(weights: Sequence[int]) -> bytes:
    numbers = array("h", weights)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def load_model(name: str, folder: Path | None = None) -> tuple[Model, Mapping[str, Any]]:
    """The model of a name: `builtin:v1`, or a file; a relative path begins in `folder`.

    Raises:
        ConfigError: there is none, or it cannot be used.
    """
    if name == BUILTIN:
        return read_bytes(resources.files("router.learned").joinpath(_FOLDER, "builtin-v1.fgr").read_bytes(), name)
    if name.startswith("builtin:"):
        raise ConfigError(f"{name}: there is no such model; {BUILTIN} is the one that comes with this release")
    path = Path(name) if folder is None else folder / name
    try:
        return read_bytes(path.read_bytes(), name)
    except OSError as exc:
        raise ConfigError(f"{name}: {exc.strerror or exc}") from None
