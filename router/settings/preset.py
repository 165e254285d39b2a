"""Ready-made routes, shipped with the program: `policy: cheapest-capable`."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Final

from router.settings import loader
from router.settings.findings import one_of, shown

WHERE_THE_REST_GOES: Final = frozenset({"use", "by", "otherwise", "at_least", "default"})


@cache
def presets() -> dict[str, dict[str, Any]]:
    """All of them by name: what each is for (`purpose`), what it costs (`tradeoff`), and its `route`."""
    folder = resources.files("policies").joinpath("presets")
    files = sorted((file.name, file) for file in folder.iterdir() if file.name.endswith(".yaml"))
    return {name.removesuffix(".yaml"): loader.parse(file.read_text(encoding="utf-8"), name).data for name, file in files}


def with_preset(route: Any) -> Any:
    """A route's fields with those of the preset that it names; its own win. Raises ValueError if there is no such preset."""
    if not isinstance(route, dict) or route.get("policy") is None:
        return route
    name = route["policy"]
    known = presets()
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{shown(name)} is not a ready-made policy{one_of(str(name), known)}")
    made = dict(known[name]["route"])
    own = {field: value for field, value in route.items() if field != "policy"}
    if not WHERE_THE_REST_GOES.isdisjoint(own):
        # `use` and `by` of the one and `default` of the other would contradict each other.
        default = made.pop("default", {})
        if "default" not in own:
            made = {**default, **made}
        else:
            made = {field: value for field, value in made.items() if field not in WHERE_THE_REST_GOES}
    return {**made, **own}
