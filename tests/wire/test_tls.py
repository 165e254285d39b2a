"""TLS to providers: what is trusted, and what a refusal means."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from router.adapters.upstream.http1 import Http1Upstream
from router.ports import Upstream
from tests.scripted_upstream import Json, ScriptedUpstream, Stream
from tests.wire.helpers import LIMIT, PATH, TIMEOUTS, drain, endpoint_of, fault_of, on_both_loops, request


def secure(host: str, *, alpn: list[str] | None = None) -> tuple[ssl.SSLContext, trustme.CA]:
    """A server context with a certificate for the host, and the CA that signed it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    if alpn:
        context.set_alpn_protocols(alpn)
    return context, authority


@pytest.fixture
async def client() -> AsyncIterator[Upstream]:
    client = Http1Upstream()
    yield client
    await client.close()


@on_both_loops
async def test_a_call_over_tls_is_like_any_other() -> None:
    """JSON, streams, keep-alive, and a body that ends with the connection."""
    context, authority = secure("localhost", alpn=["h2", "http/1.1"])
    async with ScriptedUpstream(ssl_context=context) as up:
        up.on("large", Json(text="x" * 300_000))
        up.on("close", Stream(framing="close"))
        up.on("cut", Json(end="truncate"))
        client = Http1Upstream()
        with authority.cert_pem.tempfile() as ca_file:
            endpoint = endpoint_of(up, scheme="https", host="localhost", ca_file=ca_file)
            for model in ("m", "large", "m"):
                response = await client.post(endpoint, PATH, request(model), timeouts=TIMEOUTS)
                assert json.loads(await response.read(LIMIT))["model"] == model
            assert up.connections == 1
            response = await client.post(endpoint, PATH, request("close", stream=True), timeouts=TIMEOUTS)
            assert (await drain(response)).endswith(b"[DONE]\n\n")
            response = await client.post(endpoint, PATH, request("cut"), timeouts=TIMEOUTS)
            assert (await fault_of(response.read(LIMIT))).fault == "truncated"
        await client.close()
        await up.until(lambda: up.open_connections == 0)


@on_both_loops
async def test_a_certificate_must_be_right() -> None:
    """Whoever answers for the provider would get the key. Nothing is sent before the check."""
    context, authority = secure("other.example")
    async with ScriptedUpstream(ssl_context=context) as up:
        client = Http1Upstream()
        with authority.cert_pem.tempfile() as ca_file:
            for options in ({}, {"ca_file": ca_file}):
                error = await fault_of(
                    client.post(endpoint_of(up, scheme="https", host="localhost", **options), PATH, request(), timeouts=TIMEOUTS)
                )
                assert (error.fault, error.sent) == ("tls", False)
        unchecked = endpoint_of(up, scheme="https", host="localhost", verify=False)
        assert (await client.post(unchecked, PATH, request(), timeouts=TIMEOUTS)).status == 200
        assert len(up.requests) == 1
        await client.close()


async def test_a_ca_file_that_cannot_be_read_is_named(client: Upstream, tmp_path: Path) -> None:
    """The operator must see which file it is."""
    broken = tmp_path / "ca.pem"
    for content in (None, "no certificate"):
        if content:
            broken.write_text(content)
        async with ScriptedUpstream() as up:
            error = await fault_of(client.post(endpoint_of(up, scheme="https", ca_file=str(broken)), PATH, request(), timeouts=TIMEOUTS))
        assert (error.fault, error.sent) == ("tls", False)
        assert str(broken) in str(error)


async def test_a_server_without_tls_is_a_failure_before_sending(client: Upstream) -> None:
    """An http address under an https endpoint."""
    async with ScriptedUpstream() as up:
        error = await fault_of(client.post(endpoint_of(up, scheme="https"), PATH, request(), timeouts=TIMEOUTS))
        assert error.fault in ("tls", "connect")
        assert not error.sent
        assert not up.requests


async def test_cancelling_a_handshake_leaves_nothing_behind(client: Upstream) -> None:
    """A client that leaves while we dial."""
    accepted = asyncio.Event()
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        while await reader.read(1024):
            pass
        writer.close()
        gone.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with ScriptedUpstream() as up:
        endpoint = endpoint_of(up, scheme="https", port=server.sockets[0].getsockname()[1])
        assert isinstance(client, Http1Upstream)
        call = asyncio.create_task(client.post(endpoint, PATH, request(), timeouts=TIMEOUTS))
        await accepted.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await gone.wait()
        assert client.state(endpoint).open == 0
    server.close()
    await server.wait_closed()
