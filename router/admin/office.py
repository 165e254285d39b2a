"""Where administrators are answered: who asks, what may be asked for, and where it listens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from typing import Any, Final, Protocol

import structlog

from router.admin.guard import Guard
from router.call import Attempt
from router.controls import Desk
from router.edge.asgi import AsgiApp, Message, Receive, Scope, Send
from router.edge.exchange import Exchange
from router.edge.gate import Gate
from router.edge.headers import REQUEST_ID, Headers
from router.edge.replies import Reply, error_reply
from router.errors import ADMIN_UNKNOWN, BODY_TOO_LARGE, RouterError, StoreUnavailable
from router.fleet import Fleet
from router.live import hold_lines
from router.live_controls import LiveControls
from router.metrics import Metrics
from router.peers import Peers
from router.ports import Ledger
from router.reload import Reloader
from router.snapshot import Administrator, Snapshot
from router.versions import Versions

log = structlog.get_logger("faregate.admin")

MAX_BODY_BYTES: Final = 64 * 1024
PUBLIC: Final = frozenset({"/admin/openapi.json"})
"""The same for everybody, and nothing of the configuration is in it."""
NO_STORE: Final = (b"cache-control", b"no-store")
ADMIN: Final = "faregate.admin"
"""Where the scope of a request names the administrator."""


class Serving(Protocol):
    """The process whose office this is."""

    snapshot: Snapshot
    store: str
    ledger: Ledger
    controls: LiveControls
    versions: Versions
    reloader: Reloader | None
    metrics: Metrics
    fleet: Fleet
    live: dict[str, Attempt]
    loaded_at: float
    worker: int
    run_folder: str | None


class Office:
    """Answers administrators of one process, on whatever port."""

    def __init__(self, service: Serving) -> None:
        self.service = service
        self.guard = Guard(lambda: service.snapshot.admins, clock=time.monotonic)
        self.peers = Peers(service.run_folder, service.worker, {"holds": self._holds, "config": self._config})
        self.reading = asyncio.Semaphore(1)
        """Whoever reads the whole log waits for others that do: requests come first."""
        self._app: asyncio.Future[AsgiApp] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept = ""
        self._listening: Any = None

    @property
    def asgi(self) -> AsgiApp | None:
        """What is to be served below `/admin` of the main port; None: it has a port of its own."""
        return self if self.service.snapshot.server.admin_port is None else None

    async def open(self) -> None:
        """Answer the other workers, and listen, if there is a port for it.

        Raises:
            ConfigError: the port is taken.
        """
        await self.peers.start()
        server = self.service.snapshot.server
        if server.admin_port is not None:
            from router.admin.listening import Listening

            gate = Gate(call=_nothing, refuses_early=lambda headers: not self.knows(headers), asgi=self, settings=server)
            gate.operations = {}
            self._listening = Listening(gate, server, shared=self.service.run_folder is not None)
            await self._listening.open()

    async def close(self) -> None:
        """Answer nobody any more."""
        if self._listening is not None:
            await self._listening.close()
        await self.peers.close()
        for task in self._tasks:
            task.cancel()

    @property
    def port(self) -> int | None:
        """The port of its own that it listens on."""
        return None if self._listening is None else self._listening.port

    def knows(self, headers: Headers) -> bool:
        """Whether an administrator sent these headers."""
        return self.guard.knows(headers) is not None

    def desk(self, who: str) -> Desk:
        """Where an administrator makes changes."""
        return Desk(self.service.ledger.control_store(), who=who, via="admin", keys=self.service.ledger)

    def serves(self, snapshot: Snapshot) -> None:
        """Keep the text of a configuration that is served from now on."""
        if snapshot.version != self._kept and self.service.reloader is not None:
            self._kept = snapshot.version
            self._in_background(self._keep(snapshot))

    async def _keep(self, snapshot: Snapshot) -> None:
        try:
            await self.service.versions.keep(snapshot, now_ms=time.time_ns() // 1_000_000)
        except StoreUnavailable as exc:
            self._kept = ""
            log.warning("the text of the configuration is not kept for a roll-back", problem=str(exc))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # What every worker knows of itself

    def _holds(self) -> list[dict[str, Any]]:
        return hold_lines(self.service.live, worker=self.service.worker, now=time.monotonic())

    def _config(self) -> dict[str, Any]:
        service, reloader = self.service, self.service.reloader
        return {
            "worker": service.worker,
            "version": service.snapshot.version,
            "loaded_at": service.loaded_at,
            "findings": "" if reloader is None else reloader.findings,
            "refused_at": 0.0 if reloader is None else reloader.refused_at,
            "needs_restart": [] if reloader is None else list(reloader.waiting),
        }

    # Requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let an administrator in, and hand the request over to the framework; refuse everybody else."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        counted = _Counted(send)
        try:
            if scope["path"] not in PUBLIC:
                client = scope.get("client")
                scope[ADMIN] = self.guard.admit(headers, client[0] if client else "")
            receive = await _bounded(receive)
        except RouterError as error:
            # Not those that are throttled: whoever guesses must not fill the log.
            if error.spec is ADMIN_UNKNOWN:
                log.warning("an administrator was not let in", code=error.spec.code, request_id=_id_of(headers))
            await _reply(error_reply(error), counted)
        else:
            await (await self._framework())(scope, receive, counted)
        finally:
            self.service.metrics.administered(status=counted.status)

    async def _framework(self) -> AsgiApp:
        """FastAPI takes half a second and 20 MB to load: the first request does it, in a thread."""
        if self._app is None:
            self._app = asyncio.ensure_future(asyncio.to_thread(self._load))
        # A client that leaves must not take the loading with it: others wait for it, too.
        return await asyncio.shield(self._app)

    def _load(self) -> AsgiApp:
        from router.admin.api import make_admin_app

        return make_admin_app(self)


class _Counted:
    """Sends an answer that nobody may keep, and remembers its status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 500

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), NO_STORE]
        await self._send(message)


def admin_of(scope: Mapping[str, Any] | MutableMapping[str, Any]) -> Administrator:
    """Who asks."""
    found: Administrator = scope[ADMIN]
    return found


async def _bounded(receive: Receive) -> Receive:
    """The request with its whole body, if that is no longer than an administrator's may be.

    Raises:
        RouterError: 413.
    """
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
        if sum(map(len, parts)) > MAX_BODY_BYTES:
            raise RouterError(BODY_TOO_LARGE, f"The request body is larger than {MAX_BODY_BYTES} bytes.")
    whole: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

    async def replay() -> Message:
        return whole.pop() if whole else await receive()

    return replay


def _id_of(headers: Headers) -> str:
    return headers.get(REQUEST_ID, b"")[:64].decode("ascii", "replace")


async def _reply(reply: Reply, send: Callable[[Message], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": reply.status, "headers": list(reply.headers)})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})


async def _nothing(exchange: Exchange, operation: str) -> None:
    """No call for a model comes here."""
