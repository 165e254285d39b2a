"""The client for HTTP/2 and proxies, against the scripted server and a small HTTP/2 one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest

from router.adapters.upstream.http2 import PyreqwestUpstream
from router.ports import Endpoint, Timeouts
from tests.scripted_upstream import Close, Fail, Gate, Hang, Json, Raw, ScriptedUpstream, Stream
from tests.wire.helpers import LIMIT, PATH, TIMEOUTS, drain, endpoint_of, fault_of, request
from tests.wire.test_tls import secure


@pytest.fixture
async def up() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
async def client() -> AsyncIterator[PyreqwestUpstream]:
    client = PyreqwestUpstream()
    yield client
    await client.close()


class Http2Server(asyncio.Protocol):
    """Answers every request with three pieces of one body, the last one when the gate opens."""

    gate: Gate
    resets: asyncio.Queue[int]

    def __init__(self) -> None:
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone: set[int] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.StreamEnded):
                self._tasks.add(asyncio.get_running_loop().create_task(self._answer(event.stream_id)))
            elif isinstance(event, h2.events.StreamReset):
                self._gone.add(event.stream_id)
                self.resets.put_nowait(event.stream_id)
        self._flush()

    async def _answer(self, stream: int) -> None:
        self._h2.send_headers(stream, [(":status", "200"), ("content-type", "text/plain")])
        for piece in (b"one ", b"two "):
            self._h2.send_data(stream, piece)
            self._flush()
        await self.gate.wait()
        if stream not in self._gone:
            self._h2.send_data(stream, b"three", end_stream=True)
            self._flush()

    def _flush(self) -> None:
        assert isinstance(self._transport, asyncio.Transport)
        self._transport.write(self._h2.data_to_send())


async def test_http2_is_spoken_where_it_is_offered(client: PyreqwestUpstream) -> None:
    """Many calls over one connection; each piece is handed on as it comes; abort resets the stream only."""
    context, authority = secure("localhost", alpn=["h2"])
    made: list[Http2Server] = []
    Http2Server.gate, Http2Server.resets = Gate(), asyncio.Queue()

    def serve() -> Http2Server:
        made.append(Http2Server())
        return made[-1]

    server = await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    with authority.cert_pem.tempfile() as ca_file:
        endpoint = Endpoint(name="two", scheme="https", host="localhost", port=port, base_path="/v1", http2=True, ca_file=ca_file)
        calls = [await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS) for _ in range(3)]
        for call in calls:
            assert call.status == 200
            seen = b""
            while seen != b"one two ":
                seen += await call.chunk()
        calls[0].abort()
        assert await Http2Server.resets.get() == 1
        Http2Server.gate.open()
        assert [await call.read(LIMIT) for call in calls[1:]] == [b"three", b"three"]
        assert len(made) == 1
    await client.close()
    server.close()


async def test_a_call_is_as_over_our_own_client(client: PyreqwestUpstream, up: ScriptedUpstream) -> None:
    """The port promises the same bytes and the same fields, whichever client serves it."""
    up.on("gzip", Json(encoding="gzip"))
    up.on("err", Fail(status=429, headers={"retry-after": "7"}))
    up.on("far", Json(status=307, headers={"location": "http://127.0.0.1:1/"}))
    endpoint = endpoint_of(up, headers=(("Authorization", "Bearer k"),))
    for model, status in (("m", 200), ("gzip", 200), ("err", 429), ("far", 307)):
        response = await client.post(endpoint, PATH, request(model), headers=[(b"traceparent", b"00-ab")], timeouts=TIMEOUTS)
        assert response.status == status
        assert json.loads(await response.read(LIMIT))
        assert up.requests[-1].raw == request(model)
    seen = up.requests[0]
    assert len(seen.fields) == len(seen.headers)
    assert set(seen.headers) == {
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "content-type",
        "authorization",
        "content-length",
        "traceparent",
    }
    assert seen.headers["accept-encoding"] == "identity"
    assert up.connections == 1


async def test_events_pass_one_by_one(client: PyreqwestUpstream, up: ScriptedUpstream) -> None:
    """By default reqwest's bindings hold back 64 KB: a whole stream would arrive at once."""
    pacer = Gate()
    up.on("m", Stream(tokens=3, pacer=pacer))
    response = await client.post(endpoint_of(up), PATH, request(stream=True), timeouts=TIMEOUTS)
    assert b'"role"' in await response.chunk()
    for _ in range(3):
        pacer.step()
        assert (await response.chunk()).count(b'" word"') == 1
    assert (await drain(response)).endswith(b"[DONE]\n\n")


async def test_faults_have_the_same_names(client: PyreqwestUpstream, up: ScriptedUpstream) -> None:
    """reqwest calls what breaks before the head a connect error; taken at its word it would give holds back."""
    cases = {
        "closed": (Close(), "reset"),
        "reset": (Close(reset=True), "reset"),
        "text": (Raw([b"nonsense\r\n\r\n"]), "protocol"),
        "cut": (Json(end="truncate"), "truncated"),
        "broken": (Stream(end="reset"), "reset"),
        "half": (Stream(end="truncate"), "truncated"),
    }
    for model, (behaviour, fault) in cases.items():
        up.on(model, behaviour)

        async def call(model: str = model) -> None:
            response = await client.post(endpoint_of(up), PATH, request(model, stream=True), timeouts=TIMEOUTS)
            await drain(response)

        error = await fault_of(call())
        assert (error.fault, error.sent) == (fault, True), model
    await up.stop_listening()
    nowhere = Endpoint(name="n", scheme="http", host="no-such-host.invalid", port=80, base_path="")
    for endpoint, fault in ((endpoint_of(up), "connect"), (nowhere, "dns")):
        await up.until(lambda: up.open_connections == 0)
        error = await fault_of(client.post(endpoint, PATH, request(), timeouts=TIMEOUTS))
        assert (error.fault, error.sent) == (fault, False)


async def test_an_untrusted_certificate_is_a_tls_fault(client: PyreqwestUpstream) -> None:
    """Nothing was sent."""
    context, authority = secure("localhost")
    async with ScriptedUpstream(ssl_context=context) as up:
        error = await fault_of(client.post(endpoint_of(up, scheme="https", host="localhost"), PATH, request(), timeouts=TIMEOUTS))
        assert (error.fault, error.sent) == ("tls", False)
        with authority.cert_pem.tempfile() as ca_file:
            endpoint = endpoint_of(up, scheme="https", host="localhost", ca_file=ca_file)
            assert (await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)).status == 200
    assert Path(ca_file).exists() is False


async def test_time_limits_end_a_call(client: PyreqwestUpstream, up: ScriptedUpstream) -> None:
    """Each with its own fault; the connection is closed."""
    up.on("silent", Hang())
    up.on("m", Stream(end="hang"))
    short = Timeouts(connect_seconds=0.05, first_byte_seconds=0.05)
    error = await fault_of(client.post(endpoint_of(up), PATH, request("silent"), timeouts=short))
    assert (error.fault, error.sent) == ("first_byte_timeout", True)
    for timeouts, fault in ((Timeouts(idle_seconds=0.05), "idle_timeout"), (Timeouts(total_seconds=0.3), "total_timeout")):
        response = await client.post(endpoint_of(up), PATH, request(stream=True), timeouts=timeouts)
        assert (await fault_of(response.read(LIMIT))).fault == fault
        await up.requests[-1].gone.wait()


async def test_abort_closes_at_once_and_harms_nobody_later(client: PyreqwestUpstream, up: ScriptedUpstream) -> None:
    """A client that left must not make the provider work on."""
    up.on("m", Stream(end="hang"))
    response = await client.post(endpoint_of(up), PATH, request(stream=True), timeouts=TIMEOUTS)
    await response.chunk()
    response.abort()
    await up.requests[0].gone.wait()
    assert (await fault_of(response.chunk())).fault == "reset"
    response = await client.post(endpoint_of(up), PATH, request(stream=True), timeouts=TIMEOUTS)
    assert (await fault_of(response.read(100))).fault == "too_large"
    up.on("m", Json())
    response = await client.post(endpoint_of(up), PATH, request(), timeouts=TIMEOUTS)
    await response.read(LIMIT)
    response.abort()
    assert await response.chunk() == b""


async def test_a_proxy_is_used_only_if_configured(client: PyreqwestUpstream, up: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the environment must not send keys elsewhere."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert (await client.post(endpoint_of(up), PATH, request(), timeouts=TIMEOUTS)).status == 200
    away = Endpoint(name="p", scheme="http", host="provider.invalid", port=80, base_path="/v1", proxy=f"http://127.0.0.1:{up.port}")
    assert (await client.post(away, PATH, request(), timeouts=TIMEOUTS)).status == 200
    assert up.requests[-1].path == "http://provider.invalid/v1/chat/completions"


async def test_a_closed_client_sends_nothing(client: PyreqwestUpstream, up: ScriptedUpstream) -> None:
    """The process is going down."""
    await client.close()
    error = await fault_of(client.post(endpoint_of(up), PATH, request(), timeouts=TIMEOUTS))
    assert (error.fault, error.sent) == ("connect", False)
    with pytest.raises(ValueError, match="line break"):
        await PyreqwestUpstream().post(endpoint_of(up), PATH, request(), headers=[(b"a", b"b\r\nc: d")], timeouts=TIMEOUTS)
