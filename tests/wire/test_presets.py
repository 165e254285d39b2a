"""The table of providers."""

from __future__ import annotations

from datetime import date
from urllib.parse import urlsplit

import pytest

from router.adapters.upstream.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_can_be_used_as_it_stands(name: str) -> None:
    """Operators write a name and set a variable; everything else is here, with its source."""
    preset = PRESETS[name]
    assert date.fromisoformat(preset.checked)
    assert preset.source
    assert (preset.lane == "litellm") == (preset.litellm_provider is not None)
    url = preset.url("eu-west-1")
    if url is not None:
        parts = urlsplit(url)
        assert parts.scheme == ("http" if preset.locality == "local" else "https")
        assert not parts.path.endswith("/")
        assert not parts.query
    if preset.locality == "cloud":
        assert preset.key_env is not None
    else:
        assert preset.key_env is None


def test_keys_have_variables_of_their_own() -> None:
    """One provider's key must never be sent to another."""
    named = [preset.key_env for preset in PRESETS.values() if preset.key_env]
    assert len(named) == len(set(named))


def test_the_region_is_filled_in_or_missing() -> None:
    """A literal `{region}` in a host name would be a confusing DNS error."""
    assert PRESETS["bedrock"].url("eu-west-1") == "https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1"
    assert PRESETS["bedrock"].url() is None
    assert PRESETS["openai"].url() == "https://api.openai.com/v1"
    assert PRESETS["azure"].url("x") is None


def test_a_key_goes_where_the_provider_looks_for_it() -> None:
    """Azure has a header of its own; local servers need none."""
    assert PRESETS["openai"].auth_headers("k") == (("authorization", "Bearer k"),)
    assert PRESETS["azure"].auth_headers("k") == (("api-key", "k"),)
    assert PRESETS["vllm"].auth_headers("k") == (("authorization", "Bearer k"),)
    assert PRESETS["ollama"].auth_headers(None) == ()
