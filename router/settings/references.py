"""References to the environment and to files: `$X`, `${X}`, `${X:-default}`, `file:/path`; and the secrets they give."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any, Final

from router.settings.findings import Finding, Path

_WHOLE: Final = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_BRACED: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}")
SECRET_FIELDS: Final = frozenset({"api_key", "secret", "secret_hash"})
SECRET_MAPS: Final = frozenset({"headers", "options"})
HIDDEN_CHARACTERS: Final = 6
MAX_SECRET_BYTES: Final = 64 * 1024


class FromEnvironment(str):
    """Text that came from a reference: messages name the reference, never the text."""

    __slots__ = ("reference",)
    reference: str

    def __new__(cls, text: str, reference: str) -> FromEnvironment:
        made = super().__new__(cls, text)
        made.reference = reference
        return made

    def __repr__(self) -> str:
        return repr(self.reference)


class Secret:
    """A credential. It never shows itself: neither in a repr, nor as text, nor in what is written out."""

    __slots__ = ("_text", "reference")

    def __init__(self, text: str, reference: str) -> None:
        self._text = text
        self.reference = reference
        """Where it came from: `$OPENAI_API_KEY`, `file:/run/secrets/x`; `***` for a literal."""

    def reveal(self) -> str:
        """The credential itself."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({self.reference})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self.reference)


def resolve(data: Any, environ: Mapping[str, str], *, folder: FilePath, findings: list[Finding], path: Path = ()) -> Any:
    """Replace the references in all text values; what cannot be resolved becomes a finding and an empty text.

    An empty variable counts as unset, as in the shell's `${X:-default}`.
    """
    if isinstance(data, dict):
        return {key: resolve(value, environ, folder=folder, findings=findings, path=(*path, key)) for key, value in data.items()}
    if isinstance(data, list):
        return [resolve(value, environ, folder=folder, findings=findings, path=(*path, i)) for i, value in enumerate(data)]
    if not isinstance(data, str):
        return data
    try:
        return _resolve_text(data, environ, folder if is_secret_field(path) else None)
    except ValueError as exc:
        findings.append(Finding(path, str(exc)))
        return FromEnvironment("", data)


def hidden_texts(data: Any) -> Iterator[tuple[str, str]]:
    """(text, reference) of all values that came from references and are long enough to be a credential."""
    if isinstance(data, FromEnvironment):
        if len(data) >= HIDDEN_CHARACTERS:
            yield str(data), data.reference
    elif isinstance(data, dict | list):
        for each in data.values() if isinstance(data, dict) else data:
            yield from hidden_texts(each)


def is_secret_field(path: Path) -> bool:
    """Whether the field holds a credential, so that `file:` is understood there."""
    return bool(path) and (path[-1] in SECRET_FIELDS or (len(path) > 1 and path[-2] in SECRET_MAPS))


def _resolve_text(text: str, environ: Mapping[str, str], folder: FilePath | None) -> str:
    if folder is not None and text.startswith("file:"):
        return FromEnvironment(_read(folder / text.removeprefix("file:")), text)
    whole = _WHOLE.fullmatch(text)
    if whole:
        return FromEnvironment(_variable(whole[1], None, environ), text)
    if not _BRACED.search(text):
        return text
    return FromEnvironment(_BRACED.sub(lambda match: _variable(match[1], match[2], environ), text), _masked(text))


def _variable(name: str, default: str | None, environ: Mapping[str, str]) -> str:
    value = environ.get(name) or default
    if value is None:
        raise ValueError(f"environment variable {name} is not set")
    return value


def _masked(text: str) -> str:
    """The reference as it may be shown: without its default, which may be a credential."""
    return _BRACED.sub(lambda m: m[0] if m[2] is None else f"${{{m[1]}:-...}}", text)


def _read(path: FilePath) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
        text = content.decode().strip()
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "not UTF-8"
        raise ValueError(f"file {path} cannot be read: {reason}") from None
    if not text or len(content) > MAX_SECRET_BYTES:
        raise ValueError(f"file {path} is empty or larger than {MAX_SECRET_BYTES:,} bytes")
    return text
