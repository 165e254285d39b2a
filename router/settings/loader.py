"""YAML text to plain data, with the line and column of every key and value.

Scalars follow the core schema of YAML 1.2 (`on` and `yes` are text, `1:30` is text), duplicate keys are
refused, and size, depth and aliases are bounded, so that no file can exhaust memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from router.settings.findings import Finding, Path, described, shown

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 32
MAX_NODES: Final = 200_000
"""Values and keys of a document, those that aliases repeat counted each time."""
MAX_FINDINGS: Final = 100
"""More findings than this are counted, not shown."""

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})")
"""Without leading zeros: `0042` is the number of a cost centre, so it stays text."""
_BASED: Final = re.compile(r"0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,4})?")
_QUOTES: Final = {None: "", "": "", "'": "'", '"': '"'}
_PLAIN_TAGS: Final = frozenset({None, "!", "tag:yaml.org,2002:str"})


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file, both counted from 1."""

    line: int
    column: int
    quote: str | None = field(default=None, compare=False)
    """What the text of a value on one line stands in, empty if in nothing; None: it is no such text."""

    def after(self, text: str) -> Mark:
        """The place after some of the value's text, as far as that can be told."""
        if not text or self.quote is None or "\n" in text:
            return self
        escaped = text.count(self.quote) + (text.count("\\") if self.quote == '"' else 0) if self.quote else 0
        return Mark(self.line, self.column + len(self.quote) + len(text) + escaped)


class WrittenFloat(float):
    """A number with a fraction that knows how it was written: as text, `1.10` must not become `1.1`."""

    text: str

    def __new__(cls, text: str) -> WrittenFloat:
        made = super().__new__(cls, text)
        made.text = text
        return made


class DocumentError(Exception):
    """The text is not a document that can be used."""

    def __init__(self, message: str, mark: Mark, path: Path = ()) -> None:
        super().__init__(message)
        self.message = message
        self.mark = mark
        self.path = path


@dataclass(slots=True)
class Document:
    """Plain data and where it stands."""

    source: str
    data: Any = None
    keys: dict[Path, Mark] = field(default_factory=dict)
    values: dict[Path, Mark] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)
    """Text that came from references -> the reference, which stands for it in messages."""
    moved: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By route, where in the document each of its rules stands; see `rule_presets`."""
    findings: list[tuple[Mark, Finding]] = field(default_factory=list)
    """What is wrong with the document itself, such as a key that is given twice."""

    def mark(self, path: Path, *, at_key: bool = False) -> Mark:
        """The place of a path; parts that shorthand left out are passed over."""
        found: Path = ()
        here: Any = self.data
        for part in path:
            step = step_into(here, part)
            if step is not None:
                found = (*found, step)
                here = here[step]
        marks = self.keys if at_key and found in self.keys else self.values
        return marks.get(found, Mark(1, 1))

    def describe(self, finding: Finding) -> str:
        """`file:line:column: field: what is wrong`."""
        return self._line(self._place(finding), finding)

    def _place(self, finding: Finding) -> Mark:
        return self.mark(finding.path, at_key=finding.at_key).after(finding.before)

    def report(self, findings: list[Finding]) -> str:
        """All findings, those of the document first found too, in the order of the file; one a line."""
        placed = [*self.findings, *((self._place(f), f) for f in findings)]
        placed.sort(key=lambda pair: (pair[0].line, pair[0].column))
        lines = list(dict.fromkeys(self._line(mark, finding) for mark, finding in placed))
        if len(lines) > MAX_FINDINGS:
            lines = [*lines[:MAX_FINDINGS], f"{self.source}: and {len(lines) - MAX_FINDINGS} more"]
        return "\n".join(lines)

    def _line(self, mark: Mark, finding: Finding) -> str:
        text = described(finding)
        # The longest first: one value may contain another.
        for value in sorted(self.hidden, key=len, reverse=True):
            text = text.replace(value, self.hidden[value])
        return f"{self.source}:{mark.line}:{mark.column}: {text}"


def step_into(here: Any, part: str | int) -> Any:
    """The key or index under which `part` is found in the data, a value of a list too; None if it is not there."""
    if isinstance(here, dict):
        return part if part in here else None
    if isinstance(here, list):
        if isinstance(part, int):
            return part if 0 <= part < len(here) else None
        return here.index(part) if part in here else None
    return None


def parse(text: str | bytes, source: str) -> Document:
    """Read one document.

    Raises:
        DocumentError: the text is too large, is not UTF-8 or not YAML, or breaks a bound.
    """
    return parse_with(_fastest_parser(), text, source)


def parse_with(parser: Callable[[str], Any], text: str | bytes, source: str) -> Document:
    """`parse` with a given parser of events."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if len(data) > MAX_BYTES:
        raise DocumentError(f"{len(data):,} bytes are more than a configuration may have ({MAX_BYTES:,})", Mark(1, 1))
    try:
        decoded = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise DocumentError("not valid YAML: the text is not UTF-8", Mark(line, 1)) from None
    try:
        root = _Tree(parser(decoded)).read()
    except yaml.MarkedYAMLError as exc:
        raise DocumentError(f"not valid YAML: {_problem(exc, decoded)}", _mark(exc.problem_mark or exc.context_mark)) from None
    except yaml.YAMLError as exc:
        line = decoded.count("\n", 0, getattr(exc, "position", 0) or 0) + 1
        raise DocumentError("not valid YAML: a character that is not allowed", Mark(line, 1)) from None
    document = Document(source)
    document.values[()] = root.mark
    document.data = _Builder(document).build(root, (), 0)
    return document


def _problem(exc: yaml.MarkedYAMLError, text: str) -> str:
    mark = exc.problem_mark
    line = "" if mark is None else next(iter(text.splitlines()[mark.line : mark.line + 1]), "")
    if mark is not None and "cannot start any token" in (exc.problem or "") and line[mark.column : mark.column + 1] == "\t":
        return "a tab, which YAML does not take in front of a field: indent with spaces"
    parts = [part for part in (exc.problem, exc.context) if part]
    return " ".join(parts) or "it cannot be read"


def _mark(mark: Any) -> Mark:
    return Mark(1, 1) if mark is None else Mark(mark.line + 1, mark.column + 1)


@dataclass(slots=True, eq=False)
class _Node:
    mark: Mark
    scalar: str | None = None
    plain: bool = False
    items: list[_Node] | None = None
    pairs: list[tuple[_Node, _Node]] | None = None


class PurePythonParser(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):
    """The same events without libyaml."""

    def __init__(self, text: str) -> None:
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)


def _fastest_parser() -> Callable[[str], Any]:
    if not yaml.__with_libyaml__:
        return PurePythonParser
    from yaml import cyaml

    # The stubs of PyYAML leave its own classes out.
    fast: Callable[[str], Any] = vars(cyaml)["CParser"]
    return fast


class _Tree:
    """Builds nodes from parser events, bounded in depth, so that no recursion can run away."""

    def __init__(self, parser: Any) -> None:
        """`parser` gives YAML events."""
        self._parser = parser
        self._anchors: dict[str, _Node] = {}

    def read(self) -> _Node:
        self._parser.get_event()
        if self._parser.check_event(yaml.StreamEndEvent):
            return _Node(Mark(1, 1), scalar="", plain=True)
        self._parser.get_event()
        root = self._node(0)
        self._parser.get_event()
        if not self._parser.check_event(yaml.StreamEndEvent):
            raise DocumentError("more than one document in the file", _mark(self._parser.get_event().start_mark))
        return root

    def _node(self, depth: int) -> _Node:
        event = self._parser.get_event()
        mark = _mark(event.start_mark)
        if depth > MAX_DEPTH:
            raise DocumentError(f"nested deeper than {MAX_DEPTH} levels", mark)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise DocumentError(f"not valid YAML: no anchor &{event.anchor} before this alias", mark)
            return self._anchors[event.anchor]
        if event.tag not in _PLAIN_TAGS:
            raise DocumentError(f"YAML tags are not supported: {shown(event.tag)}", mark)
        node = self._filled(event, mark, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _filled(self, event: Any, mark: Mark, depth: int) -> _Node:
        if isinstance(event, yaml.ScalarEvent):
            if event.style in _QUOTES and _mark(event.end_mark).line == mark.line:
                mark = Mark(mark.line, mark.column, _QUOTES[event.style])
            return _Node(mark, scalar=event.value, plain=event.implicit[0] and event.tag is None)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[_Node] = []
            while not self._parser.check_event(yaml.SequenceEndEvent):
                items.append(self._node(depth + 1))
            self._parser.get_event()
            return _Node(mark, items=items)
        pairs: list[tuple[_Node, _Node]] = []
        while not self._parser.check_event(yaml.MappingEndEvent):
            key = self._node(depth + 1)
            pairs.append((key, self._node(depth + 1)))
        self._parser.get_event()
        return _Node(mark, pairs=pairs)


class _Builder:
    """Turns nodes into plain data and notes the place of each."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._count = 0

    def build(self, node: _Node, path: Path, depth: int) -> Any:
        self._count += 1
        if self._count > MAX_NODES or depth > MAX_DEPTH:
            raise DocumentError(f"aliases make more than {MAX_NODES:,} values or {MAX_DEPTH} levels", node.mark)
        if node.pairs is not None:
            return self._mapping(node.pairs, path, depth)
        if node.items is not None:
            result: list[Any] = []
            for index, item in enumerate(node.items):
                self._document.values[(*path, index)] = item.mark
                result.append(self.build(item, (*path, index), depth + 1))
            return result
        return scalar(node.scalar or "") if node.plain else node.scalar

    def _mapping(self, pairs: list[tuple[_Node, _Node]], path: Path, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in pairs:
            key = key_node.scalar
            if key is None:
                raise DocumentError("a key must be text", key_node.mark, path)
            here = (*path, key)
            if key in result:
                first = self._document.keys[here].line
                self._document.findings.append((key_node.mark, Finding(here, f"is given twice; the first is on line {first}")))
                continue
            self._document.keys[here] = key_node.mark
            self._document.values[here] = value_node.mark
            result[key] = self.build(value_node, here, depth + 1)
        return result


def scalar(text: str) -> Any:
    """The value of an unquoted scalar by the core schema of YAML 1.2."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text) and not text.lstrip("+-").isdigit():
        return WrittenFloat(text)
    return text


def prune(data: Any, path: Path) -> None:
    """Take an entry out of a mapping in the data, in place; a path that is not there is left alone."""
    for part in path[:-1]:
        step = step_into(data, part)
        if step is None:
            return
        data = data[step]
    if isinstance(data, dict) and path:
        data.pop(path[-1], None)


def copied(data: Any) -> Any:
    """A deep copy of plain data; leaves are shared."""
    if isinstance(data, Mapping):
        return {key: copied(value) for key, value in data.items()}
    if isinstance(data, list):
        return [copied(value) for value in data]
    return data
