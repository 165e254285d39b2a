"""A request that was sent twice: when, and that the books say so."""

from __future__ import annotations

from pathlib import Path

from tests.running import running
from tests.scripted_upstream import Close, Json, Raw, Sequence
from tests.wire.helpers import LIMIT, PATH, TIMEOUTS, fault_of, on_both_loops, request, world

CONFIG = """
version: 1
server: {store: "STORE"}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 1, output: 10}, default_max_output: 100}
routes:
  auto: {default: {use: m}, fallback: {retries: 0}}
keys:
  tester: {secret: $TEST_KEY}
"""


@on_both_loops
async def test_the_answer_and_the_fault_say_how_often_the_request_was_sent() -> None:
    """The provider may have begun to work on the first one, and bill both."""
    async with world() as (up, client, endpoint):
        up.on("m", Sequence([Json(), Close(), Close(), Json(), Close(), Json()]))
        first = await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)
        await first.read(LIMIT)
        error = await fault_of(client.post(endpoint, PATH, request(), timeouts=TIMEOUTS))
        assert (error.fault, error.sends) == ("reset", 2)
        await (await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)).read(LIMIT)
        twice = await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)
        await twice.read(LIMIT)
        assert (first.sends, twice.sends, len(up.requests)) == (1, 2, 6)


@on_both_loops
async def test_a_provider_that_has_said_anything_is_not_asked_again() -> None:
    """Even a 103 shows that it works on the request: a second one would be paid for twice."""
    async with world() as (up, client, endpoint):
        early = Raw([b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"])
        for said in (early, Raw([b"HTTP/1.1 2"])):
            up.on("m", Sequence([Json(), said, Json()]))
            await (await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)).read(LIMIT)
            before = len(up.requests)
            error = await fault_of(client.post(endpoint, PATH, request(), timeouts=TIMEOUTS))
            assert (error.fault, error.sent, error.sends) == ("reset", True, 1)
            assert len(up.requests) == before + 1


async def test_the_books_say_that_a_request_was_sent_twice(tmp_path: Path) -> None:
    """Whoever compares the provider's bill with the records finds the second one."""
    async with running(tmp_path, CONFIG) as app:
        app.up.on("m", Sequence([Json(), Close(), Json(), Close(), Close()]))
        assert [(await app.ask("auto")).status_code for _ in range(3)] == [200, 200, 502]
        assert [record.get("sends", 1) for record in await app.records()] == [1, 2, 2]
        assert len(app.up.requests) == 5
