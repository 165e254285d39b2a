"""One key with a budget and rate limits, in place of the row that LiteLLM would read from Postgres."""

from litellm.proxy._types import UserAPIKeyAuth, hash_token

KEY = "sk-bench-0123456789abcdefghijklmnop"


async def check(_request, api_key: str) -> UserAPIKeyAuth:
    """Who sends this key."""
    if api_key.removeprefix("Bearer ") != KEY:
        raise PermissionError("unknown key")
    return UserAPIKeyAuth(
        api_key=KEY,
        token=hash_token(KEY),
        key_alias="bench",
        max_budget=1e9,
        spend=0.0,
        budget_duration="30d",
        rpm_limit=10**9,
        tpm_limit=10**12,
    )
