"""The parts of an expression, each with its place in the text, and how they are written out again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec


class ExpressionError(ValueError):
    """An expression that cannot be meant. The message says what is wrong."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at
        """Characters of the text before the place."""


@dataclass(frozen=True, slots=True)
class Node:
    """A part of an expression."""

    at: int
    """Characters of the text before it."""


@dataclass(frozen=True, slots=True)
class Literal(Node):
    """A constant."""

    value: bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Ident(Node):
    """A name, with what is selected from it: `tokens.input`."""

    name: str


@dataclass(frozen=True, slots=True)
class Select(Node):
    """A field of something that is no name: `provider("openai").up`."""

    base: Node
    field: str


@dataclass(frozen=True, slots=True)
class Index(Node):
    """An element of a list."""

    base: Node
    index: Node


@dataclass(frozen=True, slots=True)
class Call(Node):
    """A function, or a method of `target`."""

    name: str
    target: Node | None
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Unary(Node):
    """`!` or `-`."""

    op: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """Two operands."""

    op: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Ternary(Node):
    """`condition ? yes : no`."""

    condition: Node
    yes: Node
    no: Node


@dataclass(frozen=True, slots=True)
class ListOf(Node):
    """A list of what stands in it."""

    items: tuple[Node, ...]


MACROS: Final = frozenset({"all", "exists", "exists_one", "filter", "map"})
"""Methods of lists whose first argument is a new name for each element."""


def children(node: Node) -> tuple[Node, ...]:
    """What a part is made of. A look-up such as `provider("openai").up` is one thing."""
    match node:
        case Index(base=base, index=index):
            return (base, index)
        case Call(target=target, args=args):
            return args if target is None else (target, *args)
        case Unary(operand=operand):
            return (operand,)
        case Binary(left=left, right=right):
            return (left, right)
        case Ternary(condition=condition, yes=yes, no=no):
            return (condition, yes, no)
        case ListOf(items=items):
            return items
        case _:
            return ()


def flattened(node: Node, op: str) -> Iterator[Node]:
    """The operands of a chain of the same operator: of `a && (b && c)`, all three."""
    if isinstance(node, Binary) and node.op == op:
        yield from flattened(node.left, op)
        yield from flattened(node.right, op)
    else:
        yield node


def written(node: Node, names: Mapping[str, str] | None = None) -> str:
    """The text of a part, every operation in parentheses; `names` puts other names for some parts, by their own text."""
    match node:
        case Literal(value=value):
            text = msgspec.json.encode(value).decode()
        case Ident(name=name):
            text = name
        case Select(base=base, field=field):
            text = f"{written(base)}.{field}"
        case Index(base=base, index=index):
            text = f"{written(base, names)}[{written(index, names)}]"
        case Call():
            text = _written_call(node, names)
        case Unary(op=op, operand=operand):
            text = f"{op}{written(operand, names)}"
        case Binary(op=op, left=left, right=right):
            text = f"({written(left, names)} {op} {written(right, names)})"
        case Ternary(condition=condition, yes=yes, no=no):
            text = f"({written(condition, names)} ? {written(yes, names)} : {written(no, names)})"
        case _:
            text = f"[{', '.join(written(item, names) for item in children(node))}]"
    return text if names is None else names.get(text, text)


def _written_call(node: Call, names: Mapping[str, str] | None) -> str:
    target = "" if node.target is None else f"{written(node.target, names)}."
    return f"{target}{node.name}({', '.join(written(argument, names) for argument in node.args)})"
