"""What is declared is used, and what is used is declared."""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.house.source import ROOT, lines, text_files, where

NOT_IMPORTED: Final = {"tzdata": "zoneinfo reads its files where the system has none"}
DEVELOPMENT_ONLY: Final = {"router/prices/read_genai.py"}
"""Part of the price book's generator, which is run by hand in the development environment."""
LOADS_LITELLM: Final = re.compile(r"^\s*(?:import|from) litellm\b|import_module\(.litellm")


def declared(*, extras: bool) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() if extras for text in extra)]
    return {canonicalize_name(Requirement(text).name) for text in texts}


def imports(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, at whatever depth of the code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def packaged() -> list[Path]:
    """Python files of the two packages."""
    return [path for path in text_files(".py") if path.relative_to(ROOT).parts[0] in ("router", "policies")]


@functools.cache
def imported() -> set[str]:
    """Distributions that the two packages import from."""
    modules = set().union(*(imports(path) for path in packaged() if str(path.relative_to(ROOT)) not in DEVELOPMENT_ONLY))
    known = packages_distributions()
    outside = modules - set(sys.stdlib_module_names) - {"router", "policies"}
    return {canonicalize_name(known.get(name, [name])[0]) for name in outside}


def test_every_dependency_is_used() -> None:
    """One that is not still has to be downloaded, trusted and updated by everybody."""
    assert declared(extras=False) - imported() - set(NOT_IMPORTED) == set()


def test_litellm_is_imported_in_one_place_and_by_name_only() -> None:
    """Import contracts cannot see it: it is loaded by name, at first use, so that nothing else can load it by accident."""
    loads = [where(path, number) for path in packaged() for number, line in enumerate(lines(path), 1) if LOADS_LITELLM.search(line)]
    assert [place.partition(":")[0] for place in loads] == ["router/adapters/upstream/litellm_lane.py"]


def test_every_import_is_a_declared_dependency() -> None:
    """What only comes along with something else goes away with it."""
    assert imported() - declared(extras=True) == set()
