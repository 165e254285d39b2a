"""The parts of expressions that the expression engine works out. It is loaded only by a configuration that has such a part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from policies.expressions.tree import ExpressionError, Node, written
from policies.expressions.vocabulary import Fact
from policies.readers import Getter
from policies.types import MissingSignal, RequestFacts

FAILURES: Final = (RuntimeError, TypeError, ValueError, ArithmeticError, LookupError)
"""What the engine raises for what cannot be worked out, as a division by zero or an element that is not there."""
MISTAKES: Final = (RuntimeError, TypeError, ValueError)
"""Of these, what no value of the facts would mend."""
_SAMPLES: Final = {"string": "1", "int": 1, "double": 0.5, "bool": True, "list<string>": ["1"]}


def run_by_engine(node: Node, facts_named: Mapping[str, Fact]) -> Getter:
    """The function of a part, by the engine; None where it cannot be worked out. It is tried out once.

    Args:
        node: the part, checked.
        facts_named: facts that it names, by their own text.

    Raises:
        ExpressionError: the engine does not take it.
    """
    # Slow to import, and few configurations need it.
    from cel import compile as compile_program

    prefix = "fact"
    while prefix in written(node):
        prefix += "_"
    names = {text: f"{prefix}{number}" for number, text in enumerate(facts_named)}
    getters = tuple((names[text], fact.get) for text, fact in facts_named.items())
    try:
        program = compile_program(written(node, names))
        program.execute({names[text]: _SAMPLES[fact.type] for text, fact in facts_named.items()})
    except MISTAKES as error:
        raise ExpressionError(_first_sentence(str(error)), node.at) from None
    except (ArithmeticError, LookupError):
        pass
    execute = program.execute

    def run(facts: RequestFacts) -> Any:
        known: dict[str, Any] = {}
        missing: MissingSignal | None = None
        for name, get in getters:
            try:
                value = get(facts)
            except MissingSignal as signal:
                missing = missing or signal
                continue
            if value is not None:
                known[name] = value
        try:
            return execute(known)
        except FAILURES:
            # What is left out may be why; where it makes no difference, it need not be worked out.
            if missing is not None:
                raise missing from None
            return None

    return run


def _first_sentence(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].removeprefix("Function ").replace("'", '"').rstrip(":") + (f" ({lines[-1].split('. ')[0]})" if len(lines) > 1 else "")
