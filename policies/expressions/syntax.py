"""From the text of an expression to its parts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from policies.expressions.tree import Binary, Call, ExpressionError, Ident, Index, ListOf, Literal, Node, Select, Ternary, Unary

MOST_CHARACTERS: Final = 4_000
MOST_LEVELS: Final = 40
"""Of parts within parts."""

_TOKEN: Final = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*)
  | (?P<float>(?:\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+(?:[eE][+-]?\d+)?))
  | (?P<int>0[xX][0-9a-fA-F]+|\d+)
  | (?P<string>[rR]?(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
  | (?P<name>[A-Za-z_]\w*)
  | (?P<op>\|\||&&|==|!=|<=|>=|[-+*/%<>!?:.,()\[\]])
    """,
    re.VERBOSE | re.ASCII,
)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "`": "`", "?": "?"}
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_WORDS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None}
_SINGLE: Final = {"=": '"==" compares', "&": '"&&" means and', "|": '"||" means or'}
_LARGEST: Final = 2**63 - 1


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def parse(text: str) -> Node:
    """Read an expression.

    Raises:
        ExpressionError: it is none, or one of the few forms of CEL that are not supported.
    """
    if len(text) > MOST_CHARACTERS:
        raise ExpressionError(f"is longer than {MOST_CHARACTERS:,} characters", 0)
    parser = _Parser(_tokens(text))
    node = parser.expression()
    parser.end()
    return node


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            char = text[at]
            hint = f"; {_SINGLE[char]}" if char in _SINGLE else "; the text has no end" if char in "\"'" else ""
            raise ExpressionError(f'"{char}" cannot stand here{hint}', at)
        kind = match.lastgroup or ""
        if kind != "space":
            found.append(_Token(kind, match[0], at))
        at = match.end()
    return [*found, _Token("end", "", len(text.rstrip()))]


def _string(token: _Token) -> str:
    raw = token.text[0] in "rR"
    inner = token.text[2:-1] if raw else token.text[1:-1]

    def unescaped(match: re.Match[str]) -> str:
        code = match[1] or match[2]
        if code is not None:
            return chr(int(code, 16))
        if match[3] not in _ESCAPES:
            raise ExpressionError(f'"\\{match[3]}" is no escape; for a plain backslash write it twice', token.at + match.start() + 1)
        return _ESCAPES[match[3]]

    return inner if raw else _ESCAPE.sub(unescaped, inner)


class _Parser:
    """Recursive descent, bounded in depth."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._next = 0
        self._level = 0

    def end(self) -> None:
        token = self._tokens[self._next]
        if token.kind != "end":
            raise ExpressionError(f'"{token.text}" cannot stand here', token.at)

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _takes(self, *texts: str) -> _Token | None:
        token = self._tokens[self._next]
        if token.text in texts and token.kind in ("op", "name"):
            self._next += 1
            return token
        return None

    def _expect(self, text: str) -> None:
        token = self._peek()
        if token.text != text:
            raise ExpressionError(f'"{text}" is missing' + (f' before "{token.text}"' if token.text else ""), token.at)
        self._next += 1

    def expression(self) -> Node:
        self._level += 1
        if self._level > MOST_LEVELS:
            raise ExpressionError(f"is nested deeper than {MOST_LEVELS} levels", self._peek().at)
        node = self._chain(0)
        if self._takes("?"):
            yes = self.expression()
            self._expect(":")
            node = Ternary(node.at, node, yes, self.expression())
        self._level -= 1
        return node

    def _chain(self, rank: int) -> Node:
        if rank == len(_RANKS):
            return self._unary()
        node = self._chain(rank + 1)
        while (token := self._takes(*_RANKS[rank])) is not None:
            node = Binary(token.at, token.text, node, self._chain(rank + 1))
        return node

    def _unary(self) -> Node:
        token = self._takes("!", "-")
        if token is None:
            return self._member()
        self._level += 1
        if self._level > MOST_LEVELS:
            raise ExpressionError(f"is nested deeper than {MOST_LEVELS} levels", token.at)
        operand = self._unary()
        self._level -= 1
        if token.text == "-" and isinstance(operand, Literal):
            value = operand.value
            if isinstance(value, int | float) and not isinstance(value, bool):
                return Literal(token.at, -value)
        return Unary(token.at, token.text, operand)

    def _member(self) -> Node:
        node = self._primary()
        while True:
            if self._takes("."):
                node = self._selected(node)
            elif self._takes("["):
                node = Index(node.at, node, self.expression())
                self._expect("]")
            else:
                return node

    def _selected(self, node: Node) -> Node:
        field = self._take()
        if field.kind != "name":
            raise ExpressionError('a name is missing after "."', field.at)
        if self._takes("("):
            return Call(field.at, field.text, node, self._list(")"))
        if isinstance(node, Ident):
            return Ident(node.at, f"{node.name}.{field.text}")
        return Select(node.at, node, field.text)

    def _primary(self) -> Node:
        token = self._take()
        made = _LITERALS.get(token.kind)
        if made is not None:
            return made(token)
        if token.kind == "name" and token.text != "in":
            if token.text in _WORDS:
                return Literal(token.at, _WORDS[token.text])
            return Call(token.at, token.text, None, self._list(")")) if self._takes("(") else Ident(token.at, token.text)
        if token.text == "(":
            node = self.expression()
            self._expect(")")
            return node
        if token.text == "[":
            return ListOf(token.at, self._list("]"))
        if token.kind == "end":
            raise ExpressionError("is empty" if len(self._tokens) == 1 else "ends too early", token.at)
        raise ExpressionError(f'"{token.text}" cannot stand here', token.at)

    def _list(self, end: str) -> tuple[Node, ...]:
        items: list[Node] = []
        if self._takes(end):
            return ()
        while True:
            items.append(self.expression())
            if not self._takes(","):
                break
        self._expect(end)
        return tuple(items)


def _int(token: _Token) -> Node:
    value = int(token.text, 16 if token.text[:2] in ("0x", "0X") else 10)
    if value > _LARGEST:
        raise ExpressionError(f"{token.text} is too large", token.at)
    return Literal(token.at, value)


_RANKS: Final = (("||",), ("&&",), ("<", "<=", ">", ">=", "==", "!=", "in"), ("+", "-"), ("*", "/", "%"))
"""Binary operators, the loosest first."""
_LITERALS: Final[dict[str, Callable[[_Token], Node]]] = {
    "int": _int,
    "float": lambda token: Literal(token.at, float(token.text)),
    "string": lambda token: Literal(token.at, _string(token)),
}
