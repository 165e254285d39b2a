"""Scores written into a configuration's catalogue; all else in the file, comments too, stays as it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import yaml

from router.errors import ConfigError
from router.settings.offline import load_offline

Scores = Mapping[str, Mapping[str, float]]
"""By model, then by task; `default` stands for all others."""
DEFAULT: Final = "default"


def write_quality(path: Path, scores: Scores) -> list[str]:
    """Set `quality` of these models in a file; of scores by task, those that are not given stay.

    Returns the names that are no models of the file. The file is replaced as a whole, and only by one that can be loaded.

    Raises:
        ConfigError: the file cannot be read, changed or written, or a model is written in a way that cannot be added to.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    # What is wrong with it is said as everywhere, before anything is changed.
    load_offline(str(path))
    changed, missing = with_quality(text, scores, name=str(path))
    if changed != text:
        _replace(path, changed)
    return missing


def _replace(path: Path, text: str) -> None:
    path = path.resolve()
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        shutil.copymode(path, beside)
        load_offline(str(beside))
        beside.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)


def with_quality(text: str, scores: Scores, *, name: str) -> tuple[str, list[str]]:
    """(The text with these scores; which names are no models of it). `name`: of the file, for messages. See `write_quality`."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    models = _child(root, "models")
    missing = [model for model in scores if _child(models, model) is None]
    edits: list[tuple[int, int, str]] = []
    for model, tasks in scores.items():
        node = _child(models, model)
        if node is not None:
            edits.append(_edit(text, node, tasks, f"{name}:{node.start_mark.line + 1}: models.{model}"))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text, missing


def _child(node: yaml.Node | None, name: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for key, value in node.value if key.value == name), None)


def _edit(text: str, node: yaml.Node, tasks: Mapping[str, float], where: str) -> tuple[int, int, str]:
    """Where the text changes, and to what."""
    start, end = node.start_mark.index, node.end_mark.index
    if text[start : start + 1] == "&" or text[:start].rstrip(" ").endswith(tuple("&*")) or _is_shared(text, node):
        raise ConfigError(f"{where}: is shared with others (an anchor): write its quality by hand")
    if not isinstance(node, yaml.MappingNode):
        if isinstance(node, yaml.SequenceNode) and not node.flow_style:
            raise ConfigError(f"{where}: is a list of its own: write it as `at:` of a mapping, which `quality` can stand beside")
        return start, end, f"{{at: {text[start:end]}, quality: {_written(tasks)}}}"
    known = _child(node, "quality")
    if known is not None:
        return known.start_mark.index, _end(known), _written({**_by_task(known), **tasks})
    if node.flow_style:
        return start + 1, start + 1, f"quality: {_written(tasks)}, "
    return start, start, f"quality: {_written(tasks)}\n{' ' * node.start_mark.column}"


def _is_shared(text: str, node: yaml.Node) -> bool:
    """Whether its name's line has an alias or an anchor in front of it: then it stands elsewhere, or for others, too."""
    line = text.rfind("\n", 0, node.start_mark.index) + 1
    return any(word.startswith(("&", "*")) for word in text[line : node.start_mark.index].split())


def _by_task(node: yaml.Node) -> dict[str, float]:
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _number(value.value) for key, value in node.value}
    return {DEFAULT: _number(str(node.value))}


def _number(text: str) -> float:
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def _end(node: yaml.Node) -> int:
    """Where its text ends: of what is written in lines, the end of its last part, without the blank lines behind it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _written(tasks: Mapping[str, float]) -> str:
    if set(tasks) == {DEFAULT}:
        return f"{tasks[DEFAULT]:.3f}"
    named = ", ".join(f"{_word(task)}: {tasks[task]:.3f}" for task in sorted(tasks, key=lambda task: (task != DEFAULT, task)))
    return f"{{{named}}}"


def _word(task: str) -> str:
    return task if task.isidentifier() else msgspec.json.encode(task).decode()
