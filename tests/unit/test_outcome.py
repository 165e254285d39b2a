"""How a refusal for money reads."""

from __future__ import annotations

import pytest

from router.call import Call
from router.domain.budgets import NEVER_MS, Bucket, Refusal
from router.domain.request import Operation
from router.errors import RouterError
from router.outcome import budget_error
from tests.running import compiled

CONFIG = """
version: 1
providers:
  one: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: $PROVIDER_KEY}
models:
  m: {at: one/m, price: {input: 1, output: 1}}
"""


def error_of(
    *, ends_ms: int, scope: str = "", held_nusd: int = 0, limit_nusd: int = 2_000_000_000, operation: Operation = "chat"
) -> RouterError:
    call = Call(request_id="fg-1", operation=operation, headers={}, snapshot=compiled(CONFIG), began=0.0)
    bucket = Bucket(budget="team", scope=scope, window="w", limit_nusd=2_000_000_000, hard=True, starts_ms=0, ends_ms=ends_ms)
    refusal = Refusal(bucket=bucket, limit_nusd=limit_nusd, spent_nusd=1_500_000_000, held_nusd=held_nusd, needed_nusd=600_000_000)
    return budget_error(call, refusal)


@pytest.mark.parametrize(
    ("ends_ms", "resets_at", "said"),
    [(1_800_000_000_000, "2027-01-15T08:00:00Z", "It resets at 2027-01-15T08:00:00Z"), (NEVER_MS, None, "It does not reset")],
)
def test_it_says_when_there_is_money_again(ends_ms: int, resets_at: str | None, said: str) -> None:
    """Or that only its owner can help."""
    error = error_of(ends_ms=ends_ms)
    assert error.details is not None
    assert error.details["resets_at"] == resets_at
    assert said in error.message


def test_it_names_whose_money_and_what_others_hold() -> None:
    """A budget that looks unspent is full of calls under way."""
    error = error_of(ends_ms=NEVER_MS, scope="team=search", held_nusd=100_000_000)
    for part in ("'team' (team=search)", "limit 2.00 USD", "spent 1.50 USD", "0.10 USD held", "could cost 0.60 USD", "fg-1"):
        assert part in error.message
    assert "held" not in error_of(ends_ms=NEVER_MS).message
    assert "(" not in error_of(ends_ms=NEVER_MS).message


def test_it_names_who_can_raise_it() -> None:
    """Whoever is refused must know whom to ask."""
    owned = compiled(CONFIG + "budgets: {team: {limit: $10, owner: finance@example.com}}\n")
    call = Call(request_id="fg-1", operation="chat", headers={}, snapshot=owned, began=0.0)
    bucket = Bucket(budget="team", scope="", window="w", limit_nusd=10, hard=True, starts_ms=0, ends_ms=NEVER_MS)
    error = budget_error(call, Refusal(bucket=bucket, limit_nusd=10, spent_nusd=9, held_nusd=0, needed_nusd=5))
    assert error.details is not None
    assert error.details["owner"] == "finance@example.com"
    assert "its owner must raise it. Its owner: finance@example.com. A smaller max_tokens" in error.message
    assert "owner" not in (error_of(ends_ms=NEVER_MS).details or {})


def test_it_names_a_way_out_that_is_one() -> None:
    """Neither a new window helps where the whole limit is too low, nor a cap where there is no output or no limit."""
    low = error_of(ends_ms=1_800_000_000_000, limit_nusd=500_000_000).message
    assert "That is more than the whole limit: its owner must raise it. A smaller max_tokens needs less." in low
    assert "max_tokens" not in error_of(ends_ms=1_800_000_000_000, limit_nusd=0).message
    assert "max_tokens" not in error_of(ends_ms=NEVER_MS, operation="embeddings").message
    assert "A smaller max_tokens needs less." in error_of(ends_ms=NEVER_MS).message


SHARED = """
server: {store: a.sqlite, shared_store: b.sqlite, ledger: eu}
budgets: {team: {limit: $10, shared: true}}
"""


@pytest.mark.parametrize(
    ("limit_nusd", "needed_nusd", "said"),
    [
        (2_000_000_000, 600_000_000, "More comes to this ledger in a second or two if other ones have not used it. It does not reset"),
        (100_000_000, 600_000_000, "More comes to this ledger in a second or two if other ones have not used it. "),
        (2_000_000_000, 11_000_000_000, "That is more than the whole limit"),
    ],
)
def test_a_budget_over_several_ledgers_says_that_this_is_a_share(limit_nusd: int, needed_nusd: int, said: str) -> None:
    """Neither does the configuration say so little, nor need anybody raise it."""
    call = Call(request_id="fg-1", operation="chat", headers={}, snapshot=compiled(CONFIG + SHARED), began=0.0)
    bucket = Bucket(budget="team", scope="", window="all", limit_nusd=0, hard=True, starts_ms=0, ends_ms=NEVER_MS)
    refusal = Refusal(bucket=bucket, limit_nusd=limit_nusd, spent_nusd=0, held_nusd=0, needed_nusd=needed_nusd)
    message = budget_error(call, refusal).message
    assert f"limit {limit_nusd / 1e9:.2f} USD in this ledger, as its share of 10.00 USD" in message
    assert said in message
