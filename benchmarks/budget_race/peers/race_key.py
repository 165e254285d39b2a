"""One key with a budget, in place of the row that LiteLLM would read from Postgres."""

from litellm.proxy._types import UserAPIKeyAuth, hash_token

KEY = "@KEY@"
BUDGET = "@KEY_BUDGET@"


async def check(_request: object, api_key: str) -> UserAPIKeyAuth:
    """Who sends this key."""
    if api_key.removeprefix("Bearer ") != KEY:
        raise PermissionError("unknown key")
    return UserAPIKeyAuth(
        api_key=KEY,
        token=hash_token(KEY),
        key_alias="race",
        max_budget=None if BUDGET == "None" else float(BUDGET),
        spend=0.0,
        budget_duration="1d",
    )
