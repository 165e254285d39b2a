"""Which signals a configuration's rules name: those are made ready before there is a request."""

from __future__ import annotations

from typing import Final, get_args

from policies.types import SignalName
from router.snapshot import Snapshot

NAMES: Final[tuple[SignalName, ...]] = get_args(SignalName)


def signals_named(snapshot: Snapshot) -> tuple[SignalName, ...]:
    """The signals that some rule, class of private requests or kind may read; one too many costs a little of the start."""
    policies = [route.policy for route in snapshot.routes.values()]
    rules = {rule.describe for policy in policies for rule in policy.rules}
    words = " ".join(rules | {one.describe for policy in policies for one in policy.privacy})
    by_kinds = {branch.reads for policy in policies for branch in (policy.default, *(rule.branch for rule in policy.rules))}
    return tuple([name for name in NAMES if name in words or name in by_kinds])
