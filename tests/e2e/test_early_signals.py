"""Signals that come while a service starts."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from tests.gateway import START_SECONDS, Gateway

CONFIG = """
version: 1
server: {log_requests: false}
providers:
  up: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: k}
models:
  m: {at: up/m, price: free}
"""


async def test_a_reload_that_is_asked_for_at_the_start_does_not_end_the_service(tmp_path: Path) -> None:
    """Whoever installs a configuration starts the service, then tells it to reload."""
    gateway = Gateway(tmp_path, CONFIG)
    file, pipe = tmp_path / "router.yaml", tmp_path / "pipe"
    text = file.read_bytes()
    file.unlink()
    os.mkfifo(file)
    gateway.start()
    # Opens as soon as the process reads its configuration, which it has no end of yet.
    with await asyncio.wait_for(asyncio.to_thread(file.open, "wb"), START_SECONDS) as end:
        for _ in range(3):
            os.kill(gateway.pid, signal.SIGHUP)
        file.rename(pipe)
        file.write_bytes(text)
        end.write(text)
    await gateway.until_ready()
    assert await gateway.stop() == 0
