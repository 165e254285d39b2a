"""An outage of the store is three kinds of lines in the log, not thousands."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from router.app import Service
from router.errors import StoreUnavailable
from router.store_watch import REPEAT_SECONDS, StoreWatch
from tests.running import compiled


def test_an_outage_is_said_once_then_every_minute_then_its_end() -> None:
    """Whoever reads the log an hour later sees when it went, that it lasted, and how long."""
    now = 100.0
    watch = StoreWatch(lambda: now)
    with capture_logs() as logs:
        watch.back()
        assert watch.is_up
        for _ in range(1000):
            watch.away("refused")
        now += REPEAT_SECONDS - 1
        watch.away("refused")
        assert not watch.is_up
        now += 1
        watch.away("timeout")
        watch.away("timeout")
        now += 12
        watch.back()
        watch.back()
        watch.away("refused")
    assert [(entry["event"].partition(":")[0], entry.get("reason"), entry.get("away_seconds")) for entry in logs] == [
        ("the budget store is away", "refused", None),
        ("the budget store is still away", "timeout", 60),
        ("the budget store is back after 72 s", None, None),
        ("the budget store is away", "refused", None),
    ]


async def test_a_store_that_is_back_is_noticed_without_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only while it is away it is asked again and again."""
    text = f"version: 1\nserver: {{store: {tmp_path / 'l.sqlite'}, log_requests: false}}\n"
    async with Service(compiled(text)) as service:
        pings: list[StoreUnavailable | None] = [StoreUnavailable("made up"), None]

        async def ping() -> None:
            answer = pings.pop(0)
            if answer is not None:
                raise answer

        monkeypatch.setattr(service.ledger, "ping", ping)
        await service._look_for_store()
        assert len(pings) == 2
        service._store_watch.away("made up")
        with pytest.raises(StoreUnavailable):
            await service._look_for_store()
        assert b"faregate_store_up 0" in await service.scrape()
        with capture_logs() as logs:
            await service._look_for_store()
        assert [entry["event"] for entry in logs] == ["the budget store is back after 0 s"]
        assert b"faregate_store_up 1" in await service.scrape()
