"""Pages about names that users see: complete, up to date, and with links that lead somewhere."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from router import docs
from router.edge import headers
from router.errors import ALL
from router.metrics_families import FAMILIES
from router.settings.env import VARIABLES
from tests.house.source import ROOT, text_files

PAGES: Final = [path for path in text_files(".md") if "node_modules" not in path.parts]
_LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCE: Final = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def prose(path: Path) -> str:
    """A page without its code blocks."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


@cache
def anchors(path: Path) -> set[str]:
    """What `#...` may follow a page's name, as common Markdown renderers make it from headings."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", docs.PAGES)
def test_generated_page_is_up_to_date(name: str) -> None:
    """A name that was added, renamed or removed is documented in the same commit."""
    assert (docs.FOLDER / name).read_text(encoding="utf-8") == docs.PAGES[name](), "run `make docs`"


def test_a_page_that_is_not_up_to_date_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make check` says which page and what to run."""
    # Some that are made in no time stand for all.
    monkeypatch.setattr(docs, "PAGES", {name: docs.PAGES[name] for name in ("environment.md", "errors.md", "paths.md")})
    assert docs.main([], tmp_path) == 0
    assert docs.main(["--check"], tmp_path) == 0
    (tmp_path / "errors.md").write_text("old", encoding="utf-8")
    (tmp_path / "paths.md").unlink()
    assert docs.main(["--check"], tmp_path) == 1
    named = [line.partition(" is not")[0] for line in capsys.readouterr().err.splitlines()]
    assert named == ["docs/reference/errors.md", "docs/reference/paths.md"]


def test_every_error_says_what_to_do() -> None:
    """The table tells the status; the page tells what it means and what helps."""
    assert anchors(ROOT / "docs" / "errors.md") >= {spec.code for spec in ALL}


def test_no_page_explains_an_error_that_does_not_exist() -> None:
    """A code that was renamed leaves no ghost."""
    explained = set(re.findall(r"^### (\w+)$", prose(ROOT / "docs" / "errors.md"), re.MULTILINE))
    assert explained == {spec.code for spec in ALL}


def test_every_link_between_pages_leads_somewhere() -> None:
    """Also to the right heading."""
    broken: list[str] = []
    for page in PAGES:
        for target in _LINK.findall(prose(page)):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            if not path.exists() or (anchor and anchor not in anchors(path)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_every_page_can_be_reached_from_the_index() -> None:
    """A page that nothing links to is read by nobody."""
    seen: set[Path] = set()
    waiting = [ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        waiting += [path for target in _LINK.findall(prose(page)) if (path := (page.parent / target.partition("#")[0]).resolve()).is_file()]
    assert {path for path in PAGES if path.is_relative_to(ROOT / "docs")} - seen == set()


def mentioned(pattern: str, *folders: str) -> set[str]:
    """What of a kind of name is written anywhere in these folders."""
    paths = [path for path in text_files() if path.relative_to(ROOT).parts[0] in folders]
    return {name for path in paths for name in re.findall(pattern, path.read_text(encoding="utf-8"))}


def test_every_environment_variable_in_use_is_in_the_table() -> None:
    """A variable that only the code knows is found by nobody."""
    known = {variable.name for variable in VARIABLES}
    # A configuration may refer to any variable as `$NAME`: such a name is the configuration's, not ours.
    known |= mentioned(r"\$\{?(FAREGATE_[A-Z_]+)", "config", "deploy", "docs")
    assert mentioned(r"\bFAREGATE_[A-Z][A-Z_]*[A-Z]\b", "router", "config", "deploy", "docs") - known == set()


def test_every_header_of_ours_is_in_the_tables() -> None:
    """A header that is spelled elsewhere is spelled differently sooner or later."""
    known = {name.decode() for name in (*headers.SENT, *headers.READ)}
    assert mentioned(r"\bx-faregate-[a-z][a-z-]*[a-z]\b", "router", "config", "deploy", "docs") - known == set()


def test_every_metric_that_pages_and_dashboards_name_exists() -> None:
    """A panel or an alert on a metric that was renamed stays silent."""
    known = {name + suffix for name in FAMILIES for suffix in ("", "_bucket", "_count", "_sum")}
    recorded = mentioned(r"record: (faregate[a-z_:]+)", "deploy")
    assert (
        mentioned(r"\bfaregate_[a-z_]+_(?:total|usd|seconds|ratio|up|open|entries|state|info)\b", "deploy", "docs") - known - recorded
        == set()
    )
