"""Expressions over whom a call is counted for: what a budget may ask before the call, without reading the prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from policies.expressions.check import check_condition
from policies.expressions.compiled import build, constant_of
from policies.expressions.syntax import parse
from policies.expressions.tree import Binary, Call, ExpressionError, Ident, ListOf, Literal, Node, children, flattened, written
from policies.expressions.vocabulary import fact_of
from policies.types import RequestFacts

OF_CALLERS: Final = ("org", "team", "key", "user", "session", "route")
OF_CANDIDATES: Final = ("model", "provider")
"""Names that rules do not have: a rule is asked before a candidate is known."""
TAG: Final = "tag:"
_HIDDEN: Final = "\0"
"""Names of candidates are looked up as tags that are called so."""

Holds = Callable[[Mapping[str, str], Mapping[str, str]], bool]


@dataclass(frozen=True, slots=True)
class ScopeExpression:
    """A condition on the dimensions and tags of a call."""

    looks_at: frozenset[str]
    """Dimensions and `tag:<name>`."""
    pairs: tuple[tuple[str, frozenset[str]], ...] | None
    """All that it says, as (name, accepted values) that must all hold; None: lists of values cannot say it."""
    holds: Holds
    """Takes dimensions and tags. Where a dimension that it asks for is not given, as a model before one is chosen, it does not hold."""
    compared: tuple[tuple[str, str, int], ...]
    """(name, value that it is compared with, characters of the text before that value)."""
    constant: bool | None
    """What it always is, whatever the call; None: that depends."""


def compile_scope(text: str, keys: Mapping[str, str]) -> ScopeExpression:
    """Read, check and compile a condition. `keys`: ids of keys by other names for them.

    Raises:
        ExpressionError: it cannot be meant, or asks for what a budget does not know; says what and where.
    """
    node = parse(text)
    plain = _rebuilt(node, _as_tag)
    check_condition(plain)
    looks_at = frozenset(_looked_at(node))
    compared = tuple((name, str(value.value), value.at) for name, value in _compared(node))
    node = _rebuilt(node, lambda part: _with_ids(part, keys))
    return ScopeExpression(
        looks_at=looks_at,
        pairs=_pairs(node),
        holds=_holds(_rebuilt(node, _as_tag), frozenset(name for name in looks_at if not name.startswith(TAG))),
        compared=compared,
        constant=constant_of(plain),
    )


def _rebuilt(node: Node, change: Callable[[Node], Node]) -> Node:
    """The same with every part changed, from the inside out."""
    parts: dict[str, Any] = {}
    for field in fields(node):
        value = getattr(node, field.name)
        if isinstance(value, Node):
            parts[field.name] = _rebuilt(value, change)
        elif isinstance(value, tuple):
            parts[field.name] = tuple(_rebuilt(each, change) for each in value)
    return change(replace(node, **parts) if parts else node)


def _as_tag(node: Node) -> Node:
    if isinstance(node, Ident) and node.name in OF_CANDIDATES:
        return Call(node.at, "tag", None, (Literal(node.at, _HIDDEN + node.name),))
    return node


def _with_ids(node: Node, keys: Mapping[str, str]) -> Node:
    """Keys that are compared by name, by id."""

    def meant(value: Node) -> Node:
        return replace(value, value=keys.get(str(value.value), value.value)) if isinstance(value, Literal) else value

    if not isinstance(node, Binary) or "key" not in (_name_of(node.left), _name_of(node.right)):
        return node
    if node.op in ("==", "!="):
        return replace(node, left=meant(node.left), right=meant(node.right))
    if node.op == "in" and isinstance(node.right, ListOf):
        return replace(node, right=replace(node.right, items=tuple(map(meant, node.right.items))))
    return node


def _name_of(node: Node) -> str | None:
    """The dimension or `tag:<name>` that a part is; None: something else."""
    match node:
        case Ident(name=name) if name in OF_CALLERS or name in OF_CANDIDATES:
            return name
        case Call(name="tag", target=None, args=(Literal(value=str() as tag),)):
            return TAG + tag
        case _:
            return None


def _looked_at(node: Node) -> Iterator[str]:
    name = _name_of(node)
    if name is not None:
        yield name
    elif fact_of(node) is not None:
        known = f'{", ".join((*OF_CALLERS, *OF_CANDIDATES))} and tag("...")'
        raise ExpressionError(f'a budget does not know "{written(node)}" of a call; it knows {known}', node.at)
    else:
        for child in children(node):
            yield from _looked_at(child)


def _compared(node: Node) -> Iterator[tuple[str, Literal]]:
    """Names, and the constants that they are compared with."""
    if isinstance(node, Binary) and node.op in ("==", "!=", "in"):
        for one, other in ((node.left, node.right), (node.right, node.left)):
            name = _name_of(one)
            values = other.items if isinstance(other, ListOf) else (other,)
            if name is not None:
                yield from ((name, value) for value in values if isinstance(value, Literal))
    for child in children(node):
        yield from _compared(child)


def _pairs(node: Node) -> tuple[tuple[str, frozenset[str]], ...] | None:
    found: dict[str, frozenset[str]] = {}
    for part in flattened(node, "&&"):
        name, values = _accepted(part)
        # An empty text stands for none at all, which no list of values can say.
        if name is None or name in found or not values or not all(isinstance(value, str) and value for value in values):
            return None
        found[name] = frozenset(map(str, values))
    return tuple(found.items())


def _accepted(node: Node) -> tuple[str | None, Sequence[object]]:
    """A name and the values of which it must be one."""
    match node:
        case Binary(op="==", left=left, right=Literal(value=value)):
            return _name_of(left), (value,)
        case Binary(op="==", left=Literal(value=value), right=right):
            return _name_of(right), (value,)
        case Binary(op="in", left=left, right=ListOf(items=items)):
            return _name_of(left), [item.value if isinstance(item, Literal) else None for item in items]
        case _:
            return None, ()


def _holds(node: Node, dimensions: frozenset[str]) -> Holds:
    run, of_candidates = build(node), not dimensions.isdisjoint(OF_CANDIDATES)

    def holds(dims: Mapping[str, str], tags: Mapping[str, str]) -> bool:
        if not dimensions <= dims.keys():
            return False
        if of_candidates:
            tags = {**tags} | {_HIDDEN + name: dims.get(name, "") for name in OF_CANDIDATES}
        org, team, key, user, session, route = [dims.get(name, "") for name in OF_CALLERS]
        return bool(run(RequestFacts("", route, team, key, user, session, tags, org=org)))

    return holds
