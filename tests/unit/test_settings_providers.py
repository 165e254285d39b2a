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
