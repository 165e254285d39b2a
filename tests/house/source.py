"""What the house rules are about: the text files of the repository."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
_FOLDERS: Final = (".ci", "benchmarks", "config", "deploy", "docs", "policies", "requirements", "router", "tests")
_GENERATED: Final = frozenset({"__pycache__", "results"})
_NOT_TEXT: Final = frozenset({".fgr", ".gz", ".ico", ".png", ".pyc", ".woff2"})


def text_files(*suffixes: str) -> Iterator[Path]:
    """Files of the repository that have one of these suffixes; all if none is given. Git is not needed."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in _FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in sorted(found):
        inside = path.relative_to(ROOT)
        if path.suffix in _NOT_TEXT or not _GENERATED.isdisjoint(inside.parts) or inside.name.startswith(".coverage"):
            continue
        if not suffixes or path.suffix in suffixes:
            yield path


def lines(path: Path) -> list[str]:
    """The lines of a text file."""
    return path.read_text(encoding="utf-8").splitlines()


def where(path: Path, number: int) -> str:
    """A line as it is named in a finding: `file:line`."""
    return f"{path.relative_to(ROOT)}:{number}"
