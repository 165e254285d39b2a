"""A file that only has prices, for calculations: `deployment or model: price`."""

from __future__ import annotations

from typing import Final

from pydantic import TypeAdapter, ValidationError

from router.domain.prices import Price
from router.errors import ConfigError
from router.settings import loader
from router.settings.compile_models import prices_of
from router.settings.load import read_file
from router.settings.messages import explain
from router.settings.model_routing import PriceEntry

_Prices: Final = dict[str, PriceEntry]


def read_prices(path: str) -> dict[str, tuple[Price, ...]]:
    """Prices by the names of deployments and models, in the order of time, each written as `price:` is in a configuration.

    Raises:
        ConfigError: the file cannot be read, or something in it is no price.
    """
    try:
        document = loader.parse(read_file(path), path)
    except loader.DocumentError as error:
        raise ConfigError(f"{path}:{error.mark.line}:{error.mark.column}: {error.message}") from None
    try:
        given = TypeAdapter(_Prices).validate_python(document.data)
    except ValidationError as errors:
        raise ConfigError(document.report([explain(one, _Prices, document.data) for one in errors.errors(include_url=False)])) from None
    return {name: prices_of(entry) for name, entry in given.items()}
