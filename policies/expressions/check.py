"""Do the names of an expression exist, and do its types fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from policies.expressions.tree import MACROS, Binary, Call, ExpressionError, Ident, Index, ListOf, Literal, Node, Select, Ternary, Unary
from policies.expressions.vocabulary import HIGHEST, KNOWN_WORDS, LOOKUPS, NAMES, fact_of
from policies.ranges import SURELY_PERCENT
from policies.words import did_you_mean

Scope = Mapping[str, str]
"""Types of the names that macros bind."""

NUMBERS: Final = ("int", "double")
_SAID: Final = {"string": "text", "int": "a whole number", "double": "a number", "bool": "true or false", "null": "null"}
_STRING_METHODS: Final = ("startsWith", "endsWith", "contains", "matches")
_LANGUAGE: Final = re.compile(r"[a-z]{2,3}")
_FUNCTIONS: Final = {"size": "int", "int": "int", "double": "double", "string": "string"}
_METHODS: Final = (*_STRING_METHODS, "size", *sorted(MACROS))


def check_condition(node: Node) -> None:
    """Check a whole expression, which must be true or false.

    Raises:
        ExpressionError: the first thing that is wrong.
    """
    found = type_of(node, {})
    if found != "bool":
        raise ExpressionError(f"is {said(found)}, not a condition", node.at)


def said(type_: str) -> str:
    """A type in words."""
    return "a list" if type_.startswith("list") else _SAID.get(type_, type_)


def type_of(node: Node, scope: Scope) -> str:
    """The type of a part.

    Raises:
        ExpressionError: the first thing that is wrong in it.
    """
    return _CHECKS[type(node)](node, scope)


def _literal(node: Literal, scope: Scope) -> str:
    if node.value is None:
        raise ExpressionError("null is of no use: what cannot be told makes no condition hold", node.at)
    return {bool: "bool", int: "int", float: "double", str: "string"}[type(node.value)]


def _ident(node: Ident, scope: Scope) -> str:
    if node.name in scope:
        return scope[node.name]
    fact = NAMES.get(node.name)
    if fact is not None:
        return fact.type
    inner = [name for name in NAMES if name.startswith(f"{node.name}.")]
    if inner:
        raise ExpressionError(f'"{node.name}" has parts: {", ".join(inner)}', node.at)
    if node.name in LOOKUPS:
        raise ExpressionError(f'{node.name} {LOOKUPS[node.name]}, as in {node.name}("x")', node.at)
    raise ExpressionError(f'there is no "{node.name}"{did_you_mean(node.name, NAMES)}', node.at)


def _select(node: Select, scope: Scope) -> str:
    fact = fact_of(node)
    if fact is None:
        raise ExpressionError(f'nothing has a "{node.field}" here', node.at)
    return fact.type


def _index(node: Index, scope: Scope) -> str:
    base = type_of(node.base, scope)
    if not base.startswith("list"):
        raise ExpressionError(f"{said(base)} has no elements", node.at)
    _require(node.index, scope, ("int",), "the place in a list")
    return _element(base)


def _element(list_type: str) -> str:
    return list_type[5:-1]


def _unary(node: Unary, scope: Scope) -> str:
    if node.op == "!":
        return _require(node.operand, scope, ("bool",), "what follows !")
    return _require(node.operand, scope, NUMBERS, "what follows -")


def _require(node: Node, scope: Scope, types: tuple[str, ...], what: str) -> str:
    found = type_of(node, scope)
    if found not in types:
        raise ExpressionError(f"{what} must be {said(types[-1])}, not {said(found)}", node.at)
    return found


def _binary(node: Binary, scope: Scope) -> str:
    if node.op in ("&&", "||"):
        _require(node.left, scope, ("bool",), f"what stands beside {node.op}")
        return _require(node.right, scope, ("bool",), f"what stands beside {node.op}")
    left, right = type_of(node.left, scope), type_of(node.right, scope)
    if node.op == "in":
        _check_member(node, left, right)
        return "bool"
    if node.op in ("==", "!=", "<", "<=", ">", ">="):
        _check_comparison(node, left, right)
        return "bool"
    return _arithmetic(node, left, right)


def _check_member(node: Binary, left: str, right: str) -> None:
    if not right.startswith("list"):
        raise ExpressionError(f"what follows in must be a list, not {said(right)}", node.right.at)
    if not _fit(left, _element(right)):
        raise ExpressionError(f"{said(left)} is never in a list of {said(_element(right))}", node.at)
    if isinstance(node.right, ListOf):
        for item in node.right.items:
            _check_word(node.left, item)
    else:
        _check_word(node.right, node.left)


def _check_comparison(node: Binary, left: str, right: str) -> None:
    if not _fit(left, right):
        raise ExpressionError(f"{said(left)} is compared with {said(right)}", node.at)
    if node.op not in ("==", "!=") and left not in (*NUMBERS, "string"):
        raise ExpressionError(f"{said(left)} is neither more nor less than another", node.at)
    for name, value in ((node.left, node.right), (node.right, node.left)):
        _check_word(name, value)
        _check_share(name, value)


def _check_share(name: Node, value: Node) -> None:
    """A share compared with a percentage never holds, or always."""
    known = name.name if isinstance(name, Ident) else name.field if isinstance(name, Select) else ""
    if known in HIGHEST and isinstance(value, Literal) and isinstance(value.value, int | float) and value.value > HIGHEST[known]:
        meant = f"; write {value.value / 100:g}" if value.value >= SURELY_PERCENT else f", so it is never above {HIGHEST[known]:g}"
        raise ExpressionError(f"{known} is a share, of which 1 is all{meant}", value.at)


def _check_word(name: Node, value: Node) -> None:
    if not isinstance(name, Ident) or not isinstance(value, Literal):
        return
    if name.name == "language" and not _LANGUAGE.fullmatch(str(value.value)):
        raise ExpressionError(f'language is never "{value.value}"; write its code of ISO 639-1, such as "ko"', value.at)
    known = KNOWN_WORDS.get(name.name)
    if known is not None and value.value not in known:
        raise ExpressionError(f'{name.name} is never "{value.value}"{did_you_mean(str(value.value), known)}', value.at)


def _fit(left: str, right: str) -> bool:
    return left == right or (left in NUMBERS and right in NUMBERS) or "any" in (left, right)


def _arithmetic(node: Binary, left: str, right: str) -> str:
    allowed = (*NUMBERS, "string") if node.op == "+" else ("int",) if node.op == "%" else NUMBERS
    for side, found in ((node.left, left), (node.right, right)):
        if found not in allowed:
            raise ExpressionError(f"{said(found)} cannot stand beside {node.op}", side.at)
    if left != right:
        hint = "; write double(...) around the whole one" if left in NUMBERS and right in NUMBERS else ""
        raise ExpressionError(f"{said(left)} and {said(right)} beside {node.op} do not fit{hint}", node.at)
    return left


def _ternary(node: Ternary, scope: Scope) -> str:
    _require(node.condition, scope, ("bool",), "what stands before ?")
    yes, no = type_of(node.yes, scope), type_of(node.no, scope)
    if yes != no:
        raise ExpressionError(f"gives {said(yes)} or {said(no)}", node.at)
    return yes


def _list_of(node: ListOf, scope: Scope) -> str:
    types = [type_of(item, scope) for item in node.items]
    for item, found in zip(node.items, types, strict=True):
        if not _fit(found, types[0]):
            raise ExpressionError(f"{said(types[0])} and {said(found)} in one list", item.at)
    return f"list<{types[0]}>" if types else "list<any>"


def _call(node: Call, scope: Scope) -> str:
    fact = fact_of(node)
    if fact is not None:
        return fact.type
    if node.target is None:
        return _function(node, scope)
    target = type_of(node.target, scope)
    if node.name == "size":
        _count_args(node, 0)
        return _sized(node, target)
    if node.name in _STRING_METHODS:
        if target != "string":
            raise ExpressionError(f"{node.name} is asked of text, not of {said(target)}", node.at)
        _count_args(node, 1)
        _require(node.args[0], scope, ("string",), f"what {node.name} looks for")
        if node.name == "matches" and not isinstance(node.args[0], Literal):
            raise ExpressionError("a pattern must stand in the expression itself", node.args[0].at)
        return "bool"
    if node.name in MACROS:
        return _macro(node, target, scope)
    raise ExpressionError(f'there is no "{node.name}"{did_you_mean(node.name, _METHODS)}', node.at)


def _sized(node: Call, found: str) -> str:
    if found != "string" and not found.startswith("list"):
        raise ExpressionError(f"{said(found)} has no size", node.at)
    return "int"


def _count_args(node: Call, count: int) -> None:
    if len(node.args) != count:
        raise ExpressionError(f"{node.name}() takes {count} argument{'' if count == 1 else 's'}, not {len(node.args)}", node.at)


def _function(node: Call, scope: Scope) -> str:
    if node.name not in _FUNCTIONS:
        if node.name in LOOKUPS:
            raise ExpressionError(f"{node.name}() {LOOKUPS[node.name]}", node.at)
        raise ExpressionError(f'there is no "{node.name}"{did_you_mean(node.name, (*_FUNCTIONS, *LOOKUPS))}', node.at)
    _count_args(node, 1)
    found = type_of(node.args[0], scope)
    if node.name == "size":
        return _sized(node, found)
    if found not in (*NUMBERS, "string"):
        raise ExpressionError(f"{said(found)} cannot be made {said(_FUNCTIONS[node.name])}", node.at)
    return _FUNCTIONS[node.name]


def _macro(node: Call, target: str, scope: Scope) -> str:
    if not target.startswith("list"):
        raise ExpressionError(f"{node.name} is asked of a list, not of {said(target)}", node.at)
    _count_args(node, 2)
    variable, body = node.args
    if not isinstance(variable, Ident) or "." in variable.name:
        raise ExpressionError(f"{node.name} takes a name and what is asked of each element, as in {node.name}(x, x > 1)", node.at)
    if variable.name in scope or any(name.partition(".")[0] == variable.name for name in NAMES):
        raise ExpressionError(f'"{variable.name}" is a name already; take another one for the elements', variable.at)
    inner = {**scope, variable.name: _element(target)}
    if node.name == "map":
        return f"list<{type_of(body, inner)}>"
    _require(body, inner, ("bool",), f"what {node.name} asks of each element")
    return target if node.name == "filter" else "bool"


_CHECKS: Final[Mapping[type[Node], Callable[..., str]]] = {
    Literal: _literal,
    Ident: _ident,
    Select: _select,
    Index: _index,
    Unary: _unary,
    Binary: _binary,
    Ternary: _ternary,
    ListOf: _list_of,
    Call: _call,
}
