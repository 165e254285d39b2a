"""From a checked expression to one function over the facts of a request.

What is compared, joined or looked up plainly becomes Python functions, which cost a tenth of a call of the expression engine; the
rest, such as patterns, arithmetic and lists, is given to the engine. Operands of `&&` and `||` are looked at by their cost, the
cheap ones first: a signal is asked for only if nothing else decides. What cannot be told makes no condition hold, whatever it is
compared with; it is passed on as None.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from policies.expressions.check import check_condition
from policies.expressions.engine import run_by_engine
from policies.expressions.syntax import parse
from policies.expressions.tree import Binary, Call, ListOf, Literal, Node, Ternary, Unary, children, flattened, written
from policies.expressions.vocabulary import ENGINE, Fact, fact_of
from policies.readers import Getter
from policies.types import RequestFacts

Check = Callable[[RequestFacts], bool | None]
NOBODY: Final = RequestFacts(operation="", route="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A compiled condition."""

    matches: Check
    """None: it cannot be told."""
    reads: frozenset[str]
    """What must be filled in before: `time`, `budget`, `provider:openai`, `in_flight@model:large`."""
    headers: frozenset[str]
    """Request headers that it reads, in lower case."""
    constant: bool | None
    """What it always is; None: that depends."""
    all_of: frozenset[str]
    """Conditions that must all hold, in one way of writing."""
    any_of: frozenset[str]
    """Conditions of which one must hold."""


def compile_expression(text: str) -> Expression:
    """Read, check and compile a condition, and try it out.

    Raises:
        ExpressionError: it cannot be meant; says what and where.
    """
    node = parse(text)
    check_condition(node)
    facts = list(facts_in(node))
    return Expression(
        matches=build(node),
        reads=frozenset(fact.reads for fact in facts if fact.reads),
        headers=frozenset(fact.header for fact in facts if fact.header),
        constant=constant_of(node),
        all_of=frozenset(map(written, flattened(node, "&&"))),
        any_of=frozenset(map(written, flattened(node, "||"))),
    )


def facts_in(node: Node) -> Iterator[Fact]:
    """All facts that a part names."""
    fact = fact_of(node)
    if fact is not None:
        yield fact
        return
    for child in children(node):
        yield from facts_in(child)


def constant_of(node: Node) -> bool | None:
    """What a condition always is, as far as its constants tell."""
    if isinstance(node, Binary) and node.op in ("&&", "||"):
        decisive = node.op == "||"
        parts = list(flattened(node, node.op))
        known = [constant_of(part) for part in parts]
        if decisive in known or (not decisive and _contradicts(parts)):
            return decisive
        return None if None in known else not decisive
    if isinstance(node, Unary):
        inner = constant_of(node.operand)
        return None if inner is None else not inner
    if any(True for _ in facts_in(node)):
        return None
    return bool(build(node)(NOBODY))


def _contradicts(parts: Sequence[Node]) -> bool:
    """Whether one name must be two things at a time."""
    wanted: dict[str, object] = {}
    for part in parts:
        if not (isinstance(part, Binary) and part.op == "==" and isinstance(part.right, Literal) and fact_of(part.left) is not None):
            continue
        if wanted.setdefault(written(part.left), part.right.value) != part.right.value:
            return True
    return False


@dataclass(frozen=True, slots=True)
class _Part:
    """A function for a part, and what is known of it."""

    run: Getter
    sure: bool = True
    cost: int = 0


def build(node: Node) -> Getter:
    """The function of a checked part."""
    return _part(node).run


def _part(node: Node) -> _Part:
    plain = _plain(node)
    if plain is not None:
        return plain
    facts = {written(part): fact for part, fact in _named(node)}
    cost = max((fact.cost for fact in facts.values()), default=0)
    return _Part(run_by_engine(node, facts), sure=False, cost=ENGINE + cost)


def _named(node: Node) -> Iterator[tuple[Node, Fact]]:
    fact = fact_of(node)
    if fact is not None:
        yield node, fact
        return
    for child in children(node):
        yield from _named(child)


def _plain(node: Node) -> _Part | None:
    """The part as a function of Python; None: it needs the engine."""
    fact = fact_of(node)
    if fact is not None:
        return _Part(fact.get, fact.sure, fact.cost)
    match node:
        case Literal(value=value):
            return _Part(lambda facts: value)
        case Unary(op="!", operand=operand):
            return _negated(_part(operand))
        case Binary(op="&&" | "||" as op):
            return _joined(op, [_part(each) for each in flattened(node, op)])
        case Ternary(condition=condition, yes=yes, no=no):
            return _chosen(_part(condition), _part(yes), _part(no))
        case Binary(op="in", left=left, right=right):
            return _member(left, right)
        case Binary(op=op, left=left, right=right) if op in _COMPARISONS:
            return _compared(op, _operand(left), _operand(right), right)
        case Call(name=name, target=target, args=args) if name in _TEXT_CHECKS and target is not None:
            return _text_checked(name, _operand(target), args[0])
        case _:
            return None


def _operand(node: Node) -> _Part | None:
    """A fact, a constant, or the size of one."""
    if isinstance(node, Literal) or fact_of(node) is not None:
        return _plain(node)
    return _size(node) if isinstance(node, Call) and node.name == "size" else None


def _size(node: Call) -> _Part | None:
    """Of a text in characters, of a list in elements."""
    of = _operand(node.args[0] if node.target is None else node.target)
    if of is None:
        return None
    get = of.run
    return _Part(lambda facts: None if (value := get(facts)) is None else len(value), of.sure, of.cost)


def _chosen(condition: _Part, yes: _Part, no: _Part) -> _Part:
    ask, then, otherwise = condition.run, yes.run, no.run

    def chosen(facts: RequestFacts) -> Any:
        holds = ask(facts)
        return None if holds is None else then(facts) if holds else otherwise(facts)

    return _Part(chosen, condition.sure and yes.sure and no.sure, max(condition.cost, yes.cost, no.cost))


def _negated(part: _Part) -> _Part:
    run = part.run
    if part.sure:
        return _Part(lambda facts: not run(facts), cost=part.cost)

    def negated(facts: RequestFacts) -> bool | None:
        value = run(facts)
        return None if value is None else not value

    return _Part(negated, sure=False, cost=part.cost)


def _joined(op: str, parts: list[_Part]) -> _Part:
    decisive = op == "||"
    ordered = sorted(parts, key=lambda part: part.cost)
    runs = tuple(part.run for part in ordered)
    cost, sure = ordered[-1].cost, all(part.sure for part in ordered)
    if sure and len(runs) == 2:
        first, second = runs
        pair: Check = (lambda facts: first(facts) or second(facts)) if decisive else (lambda facts: first(facts) and second(facts))
        return _Part(pair, cost=cost)

    def joined(facts: RequestFacts) -> bool | None:
        told = True
        for run in runs:
            value: bool | None = run(facts)
            if value is decisive:
                return decisive
            if value is None:
                told = False
        return not decisive if told else None

    return _Part(joined, sure, cost)


_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = MappingProxyType(
    {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
)


def _compared(op: str, left: _Part | None, right: _Part | None, right_node: Node) -> _Part | None:
    if left is None or right is None:
        return None
    compare, get, other = _COMPARISONS[op], left.run, right.run
    cost = max(left.cost, right.cost)
    if left.sure and right.sure:
        if not isinstance(right_node, Literal):
            return _Part(lambda facts: compare(get(facts), other(facts)), cost=cost)
        value = right_node.value
        if op == "==":
            return _Part(lambda facts: get(facts) == value, cost=cost)
        return _Part(lambda facts: compare(get(facts), value), cost=cost)

    def compared(facts: RequestFacts) -> bool | None:
        one, two = get(facts), other(facts)
        return None if one is None or two is None else compare(one, two)

    return _Part(compared, sure=False, cost=cost)


def _member(left: Node, right: Node) -> _Part | None:
    one = _operand(left)
    if one is None:
        return None
    get = one.run
    if isinstance(right, ListOf):
        if not all(isinstance(item, Literal) for item in right.items):
            return None
        known = frozenset(item.value for item in right.items if isinstance(item, Literal))
        return _Part(lambda facts: None if (value := get(facts)) is None else value in known, one.sure, one.cost)
    several = _operand(right)
    if several is None:
        return None
    get_list, sure, cost = several.run, one.sure and several.sure, max(one.cost, several.cost)

    def member(facts: RequestFacts) -> bool | None:
        value, known = get(facts), get_list(facts)
        return None if value is None or known is None else value in known

    return _Part(member, sure, cost)


_TEXT_CHECKS: Final[Mapping[str, Callable[[str, str], bool]]] = MappingProxyType(
    {"startsWith": str.startswith, "endsWith": str.endswith, "contains": str.__contains__}
)


def _text_checked(name: str, text: _Part | None, wanted: Node) -> _Part | None:
    if text is None or not isinstance(wanted, Literal):
        return None
    get, check, part = text.run, _TEXT_CHECKS[name], str(wanted.value)
    return _Part(lambda facts: None if (value := get(facts)) is None else check(value, part), text.sure, text.cost)
