"""The lock files: everything pinned, everything hashed, no host named."""

from __future__ import annotations

import re
import tomllib
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.house.source import ROOT

PIN_OR_HASH: Final = r"[a-z0-9-]+==\S+( ; .*)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?"
LOCKS: Final = ("build.txt", "dev.txt", "litellm.txt", "presidio.txt", "runtime.txt")


def read(name: str) -> str:
    return (ROOT / "requirements" / name).read_text(encoding="utf-8")


def pins(name: str) -> dict[str, str]:
    """Version by distribution name."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", read(name), re.MULTILINE))


def declared() -> dict[str, list[str]]:
    """What `pyproject.toml` asks for, by lock file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    runtime = project["project"]["dependencies"]
    extras = project["project"]["optional-dependencies"]
    litellm, presidio = runtime + extras["litellm"], runtime + extras["presidio"]
    groups = project["dependency-groups"]
    dev = litellm + groups["build"] + [each for each in groups["dev"] if isinstance(each, str)]
    return {"runtime.txt": runtime, "litellm.txt": litellm, "presidio.txt": presidio, "build.txt": groups["build"], "dev.txt": dev}


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_is_a_pin_or_a_hash(name: str) -> None:
    """An option or an address in a lock file would decide for the reader where packages come from."""
    other = [line for line in read(name).splitlines() if not re.fullmatch(PIN_OR_HASH, line)]
    assert other == []


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_has_a_hash(name: str) -> None:
    """`pip install --require-hashes` refuses a lock file with a hole."""
    bare = re.findall(r"^(\S+==.*)\n(?!    --hash=)", read(name), re.MULTILINE)
    assert bare == []


@pytest.mark.parametrize("name", LOCKS)
def test_lock_satisfies_what_the_project_declares(name: str) -> None:
    """A dependency that was added or raised without `make lock` fails here, not on a stranger's machine."""
    locked = pins(name)
    unmet = [
        text
        for text in declared()[name]
        if not (need := Requirement(text)).specifier.contains(locked.get(canonicalize_name(need.name), "0"), prereleases=True)
        or canonicalize_name(need.name) not in locked
    ]
    assert unmet == []


@pytest.mark.parametrize("name", ["build.txt", "litellm.txt", "runtime.txt"])
def test_what_is_tested_is_what_is_run(name: str) -> None:
    """A smaller lock file holds nothing, and no version, that the one for development lacks."""
    dev = pins("dev.txt")
    assert {package: version for package, version in pins(name).items() if dev.get(package) != version} == {}


def test_an_extra_of_its_own_runs_the_same_service() -> None:
    """What the service itself needs is what is tested, whatever Presidio needs beside it."""
    beside = pins("presidio.txt")
    assert {package: version for package, version in pins("runtime.txt").items() if beside.get(package) != version} == {}


def test_run_time_does_not_need_litellm() -> None:
    """It is an extra."""
    assert "litellm" not in pins("runtime.txt")


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8", "1.107.0"])
def test_malicious_releases_of_litellm_are_excluded_by_name(version: str) -> None:
    """Widening the range later must not bring one back."""
    (text,) = (text for text in declared()["litellm.txt"] if Requirement(text).name == "litellm")
    named = {str(each.version).removesuffix(".*") for each in Requirement(text).specifier if each.operator == "!="}
    assert any(version == each or version.startswith(f"{each}.") for each in named)
