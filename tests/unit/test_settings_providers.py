"""What is said of providers that are called through litellm."""

from __future__ import annotations

import pytest

from router.errors import ConfigError
from router.settings.load import load_text, price_book

TEXT = """version: 1
providers: {aws: {kind: litellm/bedrock, options: {region: eu}, FIELD}}
models: {m: {at: aws/m, price: {input: 1, output: 1}}}
"""


@pytest.mark.parametrize(
    "field", ["proxy: 'http://127.0.0.1:3128'", "http2: true", "max_connections: 3", "ca_file: /etc/hostname", "verify: false"]
)
def test_what_litellm_would_not_do_is_refused(field: str) -> None:
    """A call that goes out past the proxy is worse than none."""
    with pytest.raises(
        ConfigError, match=rf"providers\.aws\.{field.partition(':')[0]}: is not for providers that are called through litellm"
    ):
        load_text(TEXT.replace("FIELD", field), source="r.yaml", environ={}, price_book=price_book())
    said = load_text(TEXT.replace("FIELD", "max_connections: 512"), source="r.yaml", environ={}, price_book=price_book())
    assert said.snapshot.deployments


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ("{kind: sim, base_url: 'http://127.0.0.1:1/v1', simulate: {seed: 1}}", "simulate: is for providers of kind sim without base_url"),
        ("{kind: openai, api_key: k, simulate: {}}", "simulate: is for providers of kind sim without base_url"),
        ("{kind: sim, simulate: {down: [mid-close]}}", 'there is no simulated model "mid-close"; did you mean "mid-closed"?'),
        ("{kind: sim, simulate: {speed: 0}}", "simulate.speed"),
    ],
)
def test_only_what_is_simulated_here_behaves_as_told(provider: str, said: str) -> None:
    """A fault that never comes would look like a test that was passed."""
    text = f"version: 1\nproviders: {{p: {provider}}}\nmodels: {{m: {{at: p/mid-closed, price: free}}}}\n"
    with pytest.raises(ConfigError) as refused:
        load_text(text, source="r.yaml", environ={}, price_book=price_book())
    assert said in str(refused.value)
