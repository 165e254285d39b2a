"""What the stages need from the outside world: small typed interfaces. `app.py` plugs adapters in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec

from router.domain.budgets import Bucket, BucketSet, BucketState, Refusal, Reservation, WindowMoved

if TYPE_CHECKING:
    from router.alerts.ports import AlertStore
    from router.domain.controls import Limit
    from router.domain.feedback import Answered, Feedback, Taken
    from router.experience_port import ExperienceStore


class BudgetStore(Protocol):
    """Holds and charges. Every call is one atomic step in the store; amounts are nano-USD.

    What a call holds and is charged in a bucket goes by the bucket's unit: `usd` the amount and the charge; `requests` 1
    and 1; `tokens` the tokens of the call; `concurrent` 1 until it ends, and then nothing.

    Raises `StoreUnavailable` from every method if the store does not answer within its timeout.
    """

    async def reserve(
        self, *, attempt_id: str, amount_nusd: int, buckets: BucketSet, note: bytes = b"", tokens: int = 0
    ) -> Reservation | Refusal | WindowMoved:
        """Hold the amount in all buckets, or in none. `tokens`: the most that the call can take in and give out.

        A second call with a known `attempt_id` holds nothing more. A refusal writes nothing. Only hard
        buckets refuse, and only amounts above zero; soft ones and those on trial are counted. The store's own limits and clock
        decide. `note` is a JSON object with fields of `SpendRecord`: what the books say of this attempt if
        its process dies before it can settle. A call that fails or is cancelled leaves no hold behind.
        """
        ...

    async def extend(self, held: Reservation, *, by_nusd: int) -> Reservation | Refusal:
        """Hold more nano-USD for the same attempt, in the windows it began in, all or none.

        The new total is `held.amount_nusd + by_nusd`; a second delivery of the same call holds nothing more.
        """
        ...

    async def settle(self, held: Reservation, *, charge_nusd: int, record: bytes, tokens: int | None = None) -> bool:
        """Replace the hold by the charge in every bucket and append the record, in the same step.

        `tokens`: what the call took in and gave out; None: unknown, what was held counts.

        A second call does nothing. After a sweep has charged the hold, the difference is booked as a
        correction. A charge above the hold is booked in full; the excess counts as debt. True if this call
        changed the books.
        """
        ...

    async def void(self, held: Reservation) -> bool:
        """Give the whole hold back: only for calls that provably cost nothing. True if this call did it."""
        ...


class Lending(Protocol):
    """What a ledger does for a process that goes on while its ledger is away, see `router/escrow.py`."""

    async def lend(self, lender_id: str, *, to: Reservation, total_nusd: int, note: bytes = b"") -> bool:
        """Hand a part of the hold `lender_id` over to another attempt, until that one has `total_nusd`, in one step.

        Both fall under the same budgets in USD, and the lender was never extended. What is held in all stays the same, so
        no limit is asked. Less is handed over if the lender has less; nothing if the attempt has ended. A second call does
        nothing. A lender that was swept hands over its charge: settling the attempt then corrects that.
        """
        ...

    def trust(self, attempt_id: str) -> None:
        """Leave a reserve that has just failed as it is, done or not: it will be settled. Else it is taken back."""
        ...


class Lease(Protocol):
    """Keeps this process's holds alive, and turns those of dead processes into charges."""

    resets: int
    """How often a heartbeat found the ledger emptied, or another one in its place."""

    async def heartbeat(self, progress: Mapping[str, int]) -> None:
        """Renew the lease of this replica and store the nano-USD burnt so far per attempt id."""
        ...

    async def sweep(self) -> int:
        """Charge the holds of replicas whose lease ran out: the whole hold, or the progress if more. Returns how many."""
        ...

    async def release(self) -> None:
        """Give up the lease at a clean end. Holds that are still open are swept by others."""
        ...


class Books(Protocol):
    """Reads of the ledger for people and dashboards. Never on the hot path."""

    async def publish_limits(self, limits: Mapping[str, int], *, version: str) -> None:
        """Store the limit of each budget by name, in its unit. The store decides by these."""
        ...

    async def bucket_states(self, *, budget: str | None = None, current_only: bool = True) -> Sequence[BucketState]:
        """What is spent and held."""
        ...

    async def states_of(self, buckets: Sequence[Bucket]) -> Sequence[BucketState]:
        """The same of these buckets; those that nothing was held in yet are missing."""
        ...

    def bucket_pages(self) -> AsyncIterator[Sequence[BucketState]]:
        """The same of all buckets of current windows, some at a time: for many. What changes meanwhile may be missed, or told twice."""
        ...

    async def bucket_count(self) -> int:
        """How many buckets are kept, about."""
        ...

    def records(self, *, since_ms: int = 0, until_ms: int | None = None) -> AsyncIterator[bytes]:
        """All spend records in the order they were written, as JSON."""
        ...

    async def verify(self) -> Sequence[Drift]:
        """Recompute every bucket from the log and the open holds; an empty answer means no drift."""
        ...

    async def audit(self) -> Sequence[Drift] | None:
        """`verify` for a service that does it again and again: reads only what is new since the last call.

        None: another replica does it now. One that has begun goes on as long as it calls at least every three minutes.
        """
        ...

    async def trim(self, *, before_ms: int) -> int:
        """Drop the log's entries from before this moment, perhaps not the newest one. Returns how many.

        What they added to each bucket is kept, so that counters can still be verified. Records are gone from `records`.
        """
        ...

    async def ping(self) -> None:
        """Raises `StoreUnavailable` if the store cannot serve a reservation now."""
        ...


@dataclass(frozen=True, slots=True)
class Drift:
    """A bucket whose counter and log disagree."""

    bucket: str
    counter_nusd: int
    log_nusd: int
    field: Literal["spent", "held", "debt"]


class StoredKey(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A virtual key as it is kept: its secret only as HMAC-SHA-256 under the pepper, in hex."""

    key_id: str
    secret_hmac: str
    name: str = ""
    team: str = ""
    models: list[str] = []
    """Routes and models it may ask for; empty: all."""
    tags: dict[str, str] = {}
    created_ms: int = 0
    expires_ms: int | None = None
    revoked_ms: int | None = None
    previous_hmac: str = ""
    """Of the secret that it had before it was rotated; empty: there is none that is still good."""
    previous_until_ms: int = 0
    """Until then the secret before is accepted, too."""


class KeyStore(Protocol):
    """Minted keys and the pepper, shared by all replicas."""

    async def pepper(self) -> bytes:
        """The secret under which key secrets are hashed; made at first use."""
        ...

    async def get_key(self, key_id: str) -> StoredKey | None: ...

    async def put_key(self, key: StoredKey) -> None:
        """Add or replace."""
        ...

    async def list_keys(self) -> Sequence[StoredKey]: ...


class Controls(Protocol):
    """What people change while the service runs, shared by all replicas: one value with a version, see `domain/controls.py`.

    Raises `StoreUnavailable` from every method if the store does not answer.
    """

    async def look(self) -> tuple[int, int]:
        """Version of what is kept, 0 if nothing is; and the store's clock, Unix ms. Cheap: asked twice a second by every worker."""
        ...

    async def load(self) -> bytes:
        """What was committed last; empty if nothing was."""
        ...

    async def commit(
        self, stored: bytes, *, expected: int, version: int, entries: Sequence[bytes] = (), limits: Mapping[str, Limit] | None = None
    ) -> bool:
        """Replace what is kept, append to the audit log, and replace the limits of all budgets, in one step.

        False: another version than `expected` is kept by now, and nothing was written. `limits` None: they stay as they are.
        """
        ...


class AuditLog(Protocol):
    """What was changed by whom. Append-only."""

    async def append(self, entry: bytes) -> None:
        """Add an entry, at the store's time."""
        ...

    def history(self, *, since_ms: int = 0) -> AsyncIterator[tuple[int, bytes]]:
        """(Unix ms, entry) in the order they were written."""
        ...

    async def forget(self, *, before_ms: int) -> None:
        """Drop the entries from before this moment."""
        ...


MOST_FEEDBACK: Final = 1_000_000
"""Older feedback than so many is dropped."""
MOST_ANSWERS: Final = 100_000
"""So many answers are remembered, about, whose ratings teach something: the newest ones."""


class FeedbackStore(Protocol):
    """What clients say of answers. Raises `StoreUnavailable` from every method."""

    async def put(self, given: Feedback) -> None:
        """Keep it; what the same key said of the same request before no longer counts. The request need not be known."""
        ...

    def all(self, *, since_ms: int = 0) -> AsyncIterator[Feedback]:
        """What was said from then on, in the order in which it was kept; a key may come twice with a request, and the last one counts."""
        ...

    async def expect(self, answers: Sequence[Answered]) -> None:
        """Remember what ratings of these answers teach. What is known of an answer already stays."""
        ...

    async def count(self, given: Sequence[Feedback]) -> list[Taken | None]:
        """Have these ratings count, each in one step with finding out what counted before: so whoever asks learns it, and nobody twice.

        `None`: no such answer is remembered, or not yet.
        """
        ...


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """A charge that is changed after its call has ended."""

    attempt_id: str
    by_nusd: int
    """Added to what was charged; may be negative."""
    at_ms: int
    """When the call was made: in a window that rolls, the change counts there."""
    buckets: tuple[str, ...]
    """Ids of the buckets that the charge was booked in; those that do not count USD, or are forgotten, stay as they are."""
    record: bytes
    """The line of the log, a `SpendRecord` without its buckets."""


class Corrections(Protocol):
    """Charges that are corrected long afterwards. Raises `StoreUnavailable` from every method."""

    async def turn(self) -> int:
        """How often corrections were booked. To be asked before the log is read from which new ones are worked out."""
        ...

    async def book(self, corrections: Sequence[Correction], *, turn: int, entry: bytes) -> bool:
        """Change the counters, append the records, and `entry` to the audit log, in one step; the turn is then one higher.

        False, and nothing is written: it is another turn by now, so somebody booked corrections since the log was read.
        """
        ...


class Readers(Protocol):
    """How far programs that keep records elsewhere have read the log. Raises `StoreUnavailable` from every method."""

    async def note(self, name: str, position: str) -> None:
        """It has read all up to this position, as `AlertStore.page` tells it."""
        ...

    async def read_until(self, names: Sequence[str]) -> int:
        """Unix ms: all entries of the log from before this moment were read by all of these; 0 if one of them never read."""
        ...


class ControlStore(Controls, AuditLog, Protocol):
    """Both, in one store."""


class Shelf(Protocol):
    """Texts by name, each with a label: configurations that were served. Raises `StoreUnavailable` from every method."""

    async def keep(self, name: str, label: bytes, text: bytes) -> None:
        """Add or replace."""
        ...

    async def labels(self) -> Sequence[bytes]:
        """Of all that are kept."""
        ...

    async def text(self, name: str) -> bytes | None: ...

    async def drop(self, name: str) -> None: ...


class Ledger(BudgetStore, Lending, Lease, Books, KeyStore, Protocol):
    """One store behind all five: SQLite or Redis."""

    def control_store(self) -> ControlStore:
        """What people change, and the audit log, in the same store. Usable while this is open."""
        ...

    def feedback_store(self) -> FeedbackStore:
        """What clients say of answers, in the same store. Usable while this is open."""
        ...

    def alert_store(self) -> AlertStore:
        """What alerts keep in the same store. Usable while this is open."""
        ...

    def corrections(self) -> Corrections:
        """Changes of old charges, in the same store. Usable while this is open."""
        ...

    def readers(self) -> Readers:
        """Who keeps records elsewhere, in the same store. Usable while this is open."""
        ...

    def shelf(self) -> Shelf:
        """Texts of the configuration, in the same store. Usable while this is open."""
        ...

    def experience_store(self) -> ExperienceStore:
        """What processes have learned, in the same store. Usable while this is open."""
        ...

    async def open(self, *, replica_id: str, lease_seconds: float) -> None:
        """Connect, check that the store can be trusted with money (raises `ConfigError`), take the lease."""
        ...

    async def close(self) -> None: ...


UpstreamFault = Literal[
    "connect",
    "dns",
    "tls",
    "connect_timeout",
    "first_byte_timeout",
    "idle_timeout",
    "total_timeout",
    "reset",
    "truncated",
    "protocol",
    "too_large",
]


class UpstreamError(Exception):
    """The call to a provider failed below HTTP."""

    sends = 1
    """How often the request was sent; see `UpstreamResponse.sends`."""

    def __init__(self, fault: UpstreamFault, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.fault = fault
        self.sent = sent
        """Whether any byte of the request may have reached the provider. False: it provably cost nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds."""

    connect_seconds: float = 5.0
    first_byte_seconds: float = 120.0
    idle_seconds: float = 60.0
    """Longest silence between two reads of a body."""
    total_seconds: float = 600.0


@dataclass(slots=True, eq=False)
class Endpoint:
    """Where and how a provider is called: fixed by configuration, never by a request."""

    name: str
    """Provider name, for messages."""
    scheme: Literal["http", "https"]
    host: str
    port: int
    base_path: str
    """`/v1`, no trailing slash."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Sent with every call: authorization and what the provider needs. Secrets: not in the repr."""
    max_connections: int = 512
    keepalive_seconds: float = 30.0
    http2: bool = False
    proxy: str | None = field(default=None, repr=False)
    """May hold credentials: not in the repr."""
    ca_file: str | None = None
    verify: bool = True

    @property
    def by_second_wire(self) -> bool:
        """Whether it takes more than our own client can do: HTTP/2, or a proxy that speaks TLS or SOCKS."""
        return self.http2 or (self.proxy is not None and not self.proxy.lower().startswith("http://"))


Sink = Callable[[bytes], bool]
"""Takes what has arrived. False: no more until asked again."""


class UpstreamResponse(Protocol):
    """An answer whose head has arrived. Whoever gets it must exhaust it or call `abort`."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    """As sent, names in lower case."""

    @property
    def shown(self) -> Sequence[tuple[bytes, bytes]]:
        """Those of the headers that are passed on to clients, and perhaps more: for where nothing else is of interest."""
        return self.headers

    sends: int = 1
    """How often the request was sent: twice if a reused connection was closed before the provider had the whole request."""

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises `UpstreamError` (`too_large` above `limit` bytes, `truncated`, ...)."""
        ...

    async def chunk(self) -> bytes:
        """Whatever has arrived since the last call, at least one byte; empty at the clean end of the body.

        Reading stops at the socket while nobody asks (back-pressure). Raises `UpstreamError`.
        """
        ...

    async def pump(self, sink: Sink) -> bool:
        """Hand to `sink` whatever arrives until the clean end of the body (true) or until it wants no more (false).

        The sink is called where the bytes come in, without waking whoever waits for this. Raises `UpstreamError` after
        everything that came before was handed over.
        """
        while data := await self.chunk():
            if not sink(data):
                return False
        return True

    def pending(self) -> bytes:
        """What has arrived and nobody has asked for; for the count of a call that is given up, also after `abort`."""
        return b""

    def ahead(self) -> int:
        """About how many bytes the provider has written and nobody has asked for, in the machine's buffers too; 0 if unknown."""
        return 0

    def abort(self) -> None:
        """Close the connection now; harmless after the end."""
        ...


class Upstream(Protocol):
    """Calls providers over one long-lived pool of connections."""

    async def post(
        self, endpoint: Endpoint, path: str, body: bytes, *, headers: Sequence[tuple[bytes, bytes]] = (), timeouts: Timeouts
    ) -> UpstreamResponse:
        """POST JSON to `base_path + path`. Cancelling the call closes the connection.

        `headers` come from the proxy, never from the client unchecked. Content-length, host, content-type
        and `accept-encoding: identity` are added. A reused connection that closes at once is replaced, but only once and
        if no byte of an answer had come. Redirects are not followed. Raises `UpstreamError`.
        """
        ...

    async def close(self) -> None: ...
