"""Providers behind a forward proxy: TLS in a tunnel, plain calls by whole address, and a client that leaves is known to have left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace

import pytest

from router.adapters.upstream.http1 import Http1Upstream
from router.ports import Endpoint, Timeouts
from tests.scripted_upstream import Gate, Json, ScriptedUpstream, Stream
from tests.wire.helpers import LIMIT, PATH, TIMEOUTS, drain, endpoint_of, fault_of, on_both_loops, request
from tests.wire.test_tls import secure

BASIC = b"Basic dTpwQHNz"
"""Of user `u` with password `p@ss`."""


class ForwardProxy:
    """A forward proxy of the usual kind: CONNECT, and plain requests whose target is a whole address."""

    def __init__(self, *, wants: bytes = b"", answers: bytes = b"") -> None:
        """`wants`: the credentials. `answers`: what is answered to all, in place of doing anything."""
        self.wants = wants
        self.answers = answers
        self.asked: list[bytes] = []
        """First lines of the requests."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> ForwardProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.append(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            line = head.split(b"\r\n")[0]
            self.asked.append(line)
            if self.answers or (self.wants and b"proxy-authorization: " + self.wants not in head):
                writer.write(self.answers or b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
            else:
                method, target, _ = line.split(b" ")
                where = target if method == b"CONNECT" else target.removeprefix(b"http://").split(b"/")[0]
                host, port = where.decode().rsplit(":", 1)
                inward, outward = await asyncio.open_connection(host, int(port))
                self._writers.append(outward)
                if method == b"CONNECT":
                    writer.write(b"HTTP/1.1 200 Connection established\r\nproxy-agent: test\r\n\r\n")
                else:
                    outward.write(head.replace(b"http://" + where, b"", 1))
                await self._relay(reader, writer, inward, outward)
        writer.close()

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, inward: asyncio.StreamReader, outward: asyncio.StreamWriter
    ) -> None:
        async def pipe(source: asyncio.StreamReader, into: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await source.read(65536):
                    into.write(data)
                    await into.drain()
            into.close()

        await asyncio.gather(pipe(reader, outward), pipe(inward, writer))


@pytest.fixture
async def client() -> AsyncIterator[Http1Upstream]:
    client = Http1Upstream()
    yield client
    await client.close()


@on_both_loops
async def test_tls_is_spoken_with_the_provider_through_a_tunnel() -> None:
    """JSON, streams and keep-alive; the provider's certificate is what counts, and a client that leaves closes the provider's side."""
    context, authority = secure("localhost")
    client = Http1Upstream()
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(ForwardProxy(wants=BASIC))
        up = await stack.enter_async_context(ScriptedUpstream(ssl_context=context))
        ca_file = stack.enter_context(authority.cert_pem.tempfile())
        at = f"http://u:p%40ss@127.0.0.1:{proxy.port}"
        endpoint = endpoint_of(up, scheme="https", host="localhost", ca_file=ca_file, proxy=at)
        up.on("large", Json(text="x" * 300_000))
        for model in ("m", "large", "m"):
            response = await client.post(endpoint, PATH, request(model), timeouts=TIMEOUTS)
            assert json.loads(await response.read(LIMIT))["model"] == model
        assert (proxy.asked, up.connections) == ([f"CONNECT localhost:{up.port} HTTP/1.1".encode()], 1)
        up.on("s", Stream(tokens=3))
        assert (await drain(await client.post(endpoint, PATH, request("s", stream=True), timeouts=TIMEOUTS))).endswith(b"[DONE]\n\n")
        up.on("slow", Json(before=Gate()))
        count = len(up.requests)
        leaving = asyncio.create_task(_post(client, endpoint))
        await up.until_seen(count + 1)
        leaving.cancel()
        await up.requests[count].gone.wait()
        strange = endpoint_of(up, scheme="https", host="127.0.0.1", ca_file=ca_file, proxy=at)
        assert (await fault_of(client.post(strange, PATH, request(), timeouts=TIMEOUTS))).fault == "tls"
        await client.close()


async def _post(client: Http1Upstream, endpoint: Endpoint) -> None:
    await client.post(endpoint, PATH, request("slow"), timeouts=TIMEOUTS)


@on_both_loops
async def test_plain_calls_tell_the_proxy_the_whole_address() -> None:
    """With the proxy's credentials, which the provider has no business with but gets from this simple proxy."""
    client = Http1Upstream()
    async with ForwardProxy(wants=BASIC) as proxy, ScriptedUpstream() as up:
        endpoint = endpoint_of(up, proxy=f"HTTP://u:p%40ss@localhost:{proxy.port}")
        for _ in range(2):
            response = await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)
            assert (response.status, json.loads(await response.read(LIMIT))["model"]) == (200, "m")
        # Each on a connection of its own: such proxies close them without a word.
        assert proxy.asked == [f"POST http://127.0.0.1:{up.port}/v1/chat/completions HTTP/1.1".encode()] * 2
        await client.close()


STRANGE = "did not answer CONNECT as a proxy does"


@on_both_loops
async def test_a_proxy_that_does_not_serve_is_named_and_nothing_was_sent() -> None:
    """So that the call can go elsewhere, and costs nothing. Credentials are in no message."""
    for answers, told in (
        (b"", "answered 407"),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "answered 403 to CONNECT"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", STRANGE),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000, STRANGE),
        (b"HTTP/1.1 200", STRANGE),
    ):
        client = Http1Upstream()
        async with ForwardProxy(wants=b"Basic other", answers=answers) as proxy, ScriptedUpstream() as up:
            endpoint = endpoint_of(up, scheme="https", host="localhost", proxy=f"http://u:p%40ss@127.0.0.1:{proxy.port}")
            error = await fault_of(client.post(endpoint, PATH, request(), timeouts=TIMEOUTS))
            assert (error.fault, error.sent, client.state(endpoint).open) == ("connect", False, 0)
            assert told in str(error)
            assert f"127.0.0.1:{proxy.port}" in str(error)
            assert "p%40ss" not in str(error)
            assert "p@ss" not in str(error)
            if not answers:
                plain = endpoint_of(up, proxy=f"http://127.0.0.1:{proxy.port}")
                error = await fault_of(client.post(plain, PATH, request(), timeouts=TIMEOUTS))
                assert (error.fault, error.sent, told in str(error)) == ("connect", False, True)
            assert not up.requests
            await client.close()


async def test_a_proxy_that_is_not_there_or_silent_is_told_from_the_provider(client: Http1Upstream) -> None:
    """Whoever reads the log must look at the right machine; the time to connect is for all of it."""
    away = Endpoint(name="p", scheme="https", host="provider.invalid", port=443, base_path="/v1", proxy="http://127.0.0.1:1")
    error = await fault_of(client.post(away, PATH, request(), timeouts=TIMEOUTS))
    assert (error.fault, error.sent, "the proxy 127.0.0.1:1" in str(error)) == ("connect", False, True)
    nobody = Endpoint(name="p", scheme="https", host="provider.invalid", port=443, base_path="/v1", proxy="http://proxy.invalid")
    error = await fault_of(client.post(nobody, PATH, request(), timeouts=TIMEOUTS))
    assert (error.fault, error.sent, "proxy.invalid cannot be resolved" in str(error)) == ("dns", False, True)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        quiet = Endpoint(name="p", scheme="https", host="provider.invalid", port=443, base_path="/v1", proxy=f"http://127.0.0.1:{port}")
        error = await fault_of(client.post(quiet, PATH, request(), timeouts=Timeouts(connect_seconds=0.05)))
        assert (error.fault, error.sent, client.state(quiet).open) == ("connect_timeout", False, 0)


def test_which_client_calls_through_which_proxy() -> None:
    """Ours does all but what takes TLS or SOCKS to the proxy, or HTTP/2."""

    plain = Endpoint(name="p", scheme="https", host="h", port=443, base_path="")
    assert [plain.by_second_wire, replace(plain, http2=True).by_second_wire] == [False, True]
    for proxy, wanted in (("http://p:1", False), ("HTTP://p:1", False), ("https://p:1", True), ("socks5h://p:1", True)):
        assert replace(plain, proxy=proxy).by_second_wire == wanted
