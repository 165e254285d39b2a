"""A configuration that is refused while the service runs is news."""

from __future__ import annotations

from dataclasses import dataclass, field

from router.alerts import Event, listen
from router.errors import ConfigError
from router.metrics import Metrics
from router.reload import Reloader
from router.snapshot import Snapshot
from tests.running import compiled

BASE = "version: 1\nproviders: {p: {kind: vllm, base_url: http://h/v1}}\nmodels: {m: {at: p/m, price: free}}\n"


@dataclass
class Target:
    """A service that could be reloaded."""

    snapshot: Snapshot = field(default_factory=lambda: compiled(BASE))
    metrics: Metrics = field(default_factory=Metrics)
    worker: int = 1
    host: str = "127.0.0.1"

    async def swap(self, snapshot: Snapshot) -> None:
        raise AssertionError("a bad configuration was taken")


async def test_a_configuration_that_is_refused_is_told() -> None:
    """Whoever wrote it believes that it is in force."""

    def load() -> Snapshot:
        raise ConfigError("test.yaml:1:1: models: is missing")

    told: list[Event] = []
    end = listen(told.append)
    assert await Reloader(Target(), load).reload()
    end()
    assert [(event.kind, event.text) for event in told] == [("config_rejected", "test.yaml:1:1: models: is missing")]
