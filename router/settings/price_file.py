"""A file that only has prices, for calculations: `deployment or model: price`."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from router.domain.prices import Price
from router.errors import ConfigError
from router.settings import loader
from router.settings.compile_models import prices_of
from router.settings.load import read_file
from router.settings.model_routing import PriceEntry


def read_prices(path: str) -> dict[str, tuple[Price, ...]]:
    """Prices by the names of deployments and models, in the order of time, each written as `price:` is in a configuration.

    Raises:
        ConfigError: the file cannot be read, or something in it is no price.
    """
    try:
        document = loader.parse(read_file(path), path)
        given = TypeAdapter(dict[str, PriceEntry]).validate_python(document.data)
    except loader.DocumentError as error:
        raise ConfigError(f"{path}:{error.mark.line}:{error.mark.column}: {error.message}") from None
    except ValidationError as error:
        said = [f"{path}: {'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}" for one in error.errors()]
        raise ConfigError("\n".join(said)) from None
    return {name: prices_of(entry) for name, entry in given.items()}
