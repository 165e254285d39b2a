"""Scores written into a configuration: the model's quality changes, and nothing else in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.errors import ConfigError
from router.settings.catalogue import with_quality, write_quality
from router.settings.offline import load_offline

HEAD = """# Ours, since spring.
version: 1
providers: {up: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: $ABSENT}}   # the gateway
models:
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  m: up/m   # note\n", "  m: {at: up/m, quality: 0.500}   # note\n"),
        ('  "m": "up/m"\n', '  "m": {at: "up/m", quality: 0.500}\n'),
        ("  m: {at: up/m, size: small}\n", "  m: {quality: 0.500, at: up/m, size: small}\n"),
        ("  m: {at: up/m, quality: 70%}\n", "  m: {at: up/m, quality: 0.500}\n"),
        (
            "  m: {at: up/m, quality: {code: 80%, default: 0.6}}\n",
            "  m: {at: up/m, quality: {default: 0.500, code: 0.800}}\n",
        ),
        ("  m:\n    # where\n    at: up/m\n    size: small\n", "  m:\n    # where\n    quality: 0.500\n    at: up/m\n    size: small\n"),
        (
            "  m:\n    at: up/m\n    quality:\n      code: 0.8   # measured\n      math: 0.1\n\n    # small\n    size: small\n",
            "  m:\n    at: up/m\n    quality:\n      {default: 0.500, code: 0.800, math: 0.100}\n\n    # small\n    size: small\n",
        ),
        ("  m:\n    at:\n      - up/m\n      - up/n\n", "  m:\n    quality: 0.500\n    at:\n      - up/m\n      - up/n\n"),
    ],
)
def test_a_quality_is_set_where_it_stands(before: str, after: str, tmp_path: Path) -> None:
    """However the model is written; comments and the other models stay."""
    other = "  z: up/z  # last\n"
    path = tmp_path / "router.yaml"
    path.write_text(HEAD + before + other)
    path.chmod(0o640)
    assert write_quality(path, {"m": {"default": 0.5}, "route": {"default": 1.0}}) == ["route"]
    assert path.read_text() == HEAD + after + other
    assert path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in tmp_path.iterdir()] == ["router.yaml"]
    assert next(each for each in load_offline(str(path)).deployments.values() if each.model == "m").traits.quality == 0.5
    write_quality(path, {"m": {"default": 0.5}})
    assert path.read_text() == HEAD + after + other


def test_several_models_and_tasks_are_set_at_once() -> None:
    """In one pass over the text; a task with a space is quoted."""
    text = "models:\n  a: up/a\n  b: {at: up/b}\n"
    made, missing = with_quality(text, {"b": {"default": 0.25, "long texts": 1.0}, "a": {"math": 0.125}}, name="x")
    assert made == 'models:\n  a: {at: up/a, quality: {math: 0.125}}\n  b: {quality: {default: 0.250, "long texts": 1.000}, at: up/b}\n'
    assert missing == []
    assert with_quality("version: 1\n", {"a": {"default": 1.0}}, name="x") == ("version: 1\n", ["a"])


@pytest.mark.parametrize(
    "text",
    [
        "models:\n  a: &same {at: up/a}\n  b: *same\n",
        "models:\n  a: &same\n    at: up/a\n  b: *same\n",
        "models:\n  b:\n  - up/a\n  - up/b\n",
    ],
)
def test_what_cannot_be_changed_for_one_model_alone_is_left(text: str) -> None:
    """The message names the place and the way out."""
    with pytest.raises(ConfigError, match=r"router.yaml:\d+: models.b: is (shared|a list)"):
        with_quality(text, {"b": {"default": 0.5}}, name="router.yaml")


def test_a_file_that_cannot_be_used_is_not_touched(tmp_path: Path) -> None:
    """Neither one with errors nor one that is not there."""
    path = tmp_path / "router.yaml"
    path.write_text(HEAD + "  m: {at: up/m, colour: red}\n")
    with pytest.raises(ConfigError, match="colour"):
        write_quality(path, {"m": {"default": 0.5}})
    assert path.read_text().endswith("colour: red}\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        write_quality(tmp_path / "none.yaml", {})
    path.write_text(HEAD + "  m: up/m\n")
    with pytest.raises(ConfigError, match="quality"):
        write_quality(path, {"m": {"default": 1.5}})
    assert path.read_text() == HEAD + "  m: up/m\n"
    assert [each.name for each in tmp_path.iterdir()] == ["router.yaml"]
