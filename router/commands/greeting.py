"""What `faregate serve` prints when it is ready."""

from __future__ import annotations

from router.domain.budgets import Budget
from router.domain.money import format_amount
from router.settings.types import format_duration
from router.snapshot import Snapshot


def first_name(snapshot: Snapshot) -> str:
    """The name to show in examples: `auto` if there is one, else the first route."""
    own = [route.name for route in snapshot.routes.values() if not route.aliases_model]
    return "auto" if "auto" in own else next(iter(own or snapshot.routes), "auto")


def _described(budget: Budget) -> str:
    window = format_duration(budget.rolling_ms / 1000) if budget.rolling_ms else budget.window
    return f"{budget.name} {format_amount(budget.limit_nusd, budget.unit)}/{window}"


def greeting(snapshot: Snapshot, base_url: str, *, store: str, keys: bool, admin: str = "") -> str:
    """What is served, from which books, and two ways to try it, ready to be pasted. `keys`: clients need one; `admin`: their address."""
    model = first_name(snapshot)
    key = "" if not keys else " -H 'Authorization: Bearer YOUR_KEY'"
    sdk_key = "YOUR_KEY" if keys else "unused"
    budgets = ", ".join(map(_described, snapshot.budgets)) or "none"
    ledger = store.rpartition("@")[2] if "://" in store else store
    lines = [
        "",
        f"Faregate serves {base_url} from {snapshot.source} (version {snapshot.version})",
        f"  models   {', '.join(sorted({d.model for d in snapshot.deployments.values()}))}",
        f"  budgets  {budgets}",
        f"  ledger   {ledger}",
        *([f"  admin    {admin}"] if admin else []),
        *(f"  warning  {warning}" for warning in snapshot.warnings),
        "",
        "Try it:",
        f"  curl {base_url}/chat/completions -H 'Content-Type: application/json'{key} \\",
        f'    -d \'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}\'',
        "",
        "  from openai import OpenAI",
        f'  client = OpenAI(base_url="{base_url}", api_key="{sdk_key}")',
        f'  answer = client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}])',
        "  print(answer.choices[0].message.content)",
        "",
    ]
    return "\n".join(lines)
