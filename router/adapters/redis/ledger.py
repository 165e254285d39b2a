"""The ledger in Redis or Valkey: for more than one machine. Every step is one Lua script, see `lua/`."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, cast

import hiredis
import msgspec

from router.adapters.entries import KEEP_MS, SWEPT_MS, TOMBSTONE_MS, checked_amount, checked_attempt, plan, present
from router.adapters.redis import reads
from router.adapters.redis.checks import check_server
from router.adapters.redis.keys import Keys
from router.adapters.redis.scripts import Call, command, script
from router.adapters.redis.wire import NotSent, Wire, parse_url
from router.domain.budgets import Bucket, BucketSet, BucketState, Refusal, Reservation, WindowMoved
from router.errors import StoreUnavailable
from router.ports import Drift, StoredKey

SWEEP_LIMIT: Final = 256
"""Most holds that one script call charges: bounds how long others wait for the server."""
READ_TIMEOUT_SECONDS: Final = 5.0

log = logging.getLogger("faregate.store")


class _Calls:
    """The script calls of one bucket set, ready but for attempt and amounts."""

    __slots__ = ("buckets", "reserve", "settle")

    def __init__(self, ledger: RedisLedger, buckets: BucketSet) -> None:
        made, keys, replica, lease_ms = plan(buckets), ledger.keys, ledger.replica, ledger.lease_ms
        self.buckets = made.buckets
        counters = [keys.counters + name for name in made.ids]
        per_bucket = [v for b in made.buckets for v in (b.budget, b.limit_nusd if b.hard else "", b.ends_ms)]
        self.reserve = Call(
            script("reserve"),
            [keys.leases, keys.open_holds, keys.limits, keys.index, *counters],
            [replica, lease_ms, made.starts_ms, made.ends_ms, made.joined, KEEP_MS, *per_bucket],
            more_args=4,
        )
        self.settle = Call(
            script("settle"),
            [keys.open_holds, keys.log, keys.index, *counters],
            [made.joined, keys.counters, TOMBSTONE_MS, KEEP_MS, *[b.ends_ms for b in made.buckets]],
            more_args=4,
        )


class RedisLedger:
    """`router.ports.Ledger` over one Redis. Time is the server's."""

    def __init__(self, url: str, *, timeout_seconds: float = 0.25, prefix: str = "fg") -> None:
        """Raises `ConfigError` if the URL is none."""
        self._address = parse_url(url)
        self._timeout_seconds = timeout_seconds
        self.keys = Keys(prefix)
        self.replica = ""
        self.lease_ms = 0
        self.warnings: tuple[str, ...] = ()
        """What `open` found that does not forbid to serve."""
        self.run_id = ""
        """Of the server that we talk to; another one after it was restarted or replaced."""
        self._attempt_prefix = self.keys.attempts.encode()
        self._encoded_name = ""
        self._wire: Wire | None = None
        self._reads: Wire | None = None
        self._doubtful: deque[str] = deque(maxlen=100_000)
        """Attempts whose reserve may have reached the server although we saw no answer: to be voided."""
        self._clearing: asyncio.Task[None] | None = None

    async def open(self, *, replica_id: str, lease_seconds: float) -> None:
        """Connect, refuse servers that would lose money, take the lease.

        Raises:
            ConfigError: wrong password, a server that evicts keys, one that is too old.
            StoreUnavailable: nobody answers in time.
        """
        self.replica = replica_id
        self.lease_ms = round(lease_seconds * 1000)
        self._encoded_name = f"redis:{self.keys.prefix}:{replica_id}:{self.lease_ms}"
        self._wire = Wire(self._address, timeout_seconds=self._timeout_seconds, on_connect=self._on_connect)
        self._reads = Wire(self._address, timeout_seconds=max(READ_TIMEOUT_SECONDS, self._timeout_seconds), patient=True)
        try:
            await self._wire.open()
            await self._reads.open()
            self.warnings = await check_server(self._reads)
            for warning in self.warnings:
                log.warning(warning)
            for name in ("reserve", "settle", "sweep", "heartbeat"):
                await self._reads.call(command("SCRIPT", "LOAD", script(name).text))
            await self.heartbeat({})
        except BaseException:
            await self.close()
            raise

    def _on_connect(self, run_id: str) -> None:
        self.run_id = run_id
        self._clear_doubt()

    async def close(self) -> None:
        """Close the connections; what still waits fails."""
        clearing, self._clearing = self._clearing, None
        if clearing is not None:
            clearing.cancel()
            await asyncio.wait([clearing])
        for wire in (self._wire, self._reads):
            if wire is not None:
                await wire.close()
        self._wire = self._reads = None

    @property
    def writes(self) -> int:
        """Socket writes on the present connection: many commands share one."""
        return 0 if self._wire is None else self._wire.writes

    @property
    def in_doubt(self) -> int:
        """Reserves whose answer was never heard and that are still to be voided."""
        return len(self._doubtful)

    async def _run(self, call: Call, encoded: bytes) -> Any:
        wire = self._open_wire(self._wire)
        protocol = wire.protocol
        if protocol is not None:
            # The way of nearly every call, with one coroutine less to wake.
            reply = await protocol.send(encoded)
            if type(reply) is not hiredis.ReplyError:
                return reply
        try:
            # Sent again where the server answered an error: it has done nothing, and a second delivery is harmless.
            return await wire.call(encoded)
        except hiredis.ReplyError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise StoreUnavailable(f"Redis cannot serve: {error}") from error
        try:
            return await wire.call(call.with_text(encoded))
        except hiredis.ReplyError as error:
            raise StoreUnavailable(f"Redis cannot serve: {error}") from error

    def _open_wire(self, wire: Wire | None) -> Wire:
        if wire is None:
            raise NotSent("the ledger is not open")
        return wire

    async def _read(self, *values: str | bytes | int) -> Any:
        try:
            return await self._open_wire(self._reads).call(command(*values))
        except hiredis.ReplyError as error:
            raise StoreUnavailable(f"Redis cannot serve: {error}") from error

    def _calls(self, buckets: BucketSet) -> _Calls:
        calls: _Calls | None = buckets.encoded.get(self._encoded_name)
        if calls is None:
            calls = buckets.encoded[self._encoded_name] = _Calls(self, buckets)
        return calls

    # -- BudgetStore -------------------------------------------------------------------------------------------

    async def reserve(
        self, *, attempt_id: str, amount_nusd: int, buckets: BucketSet, note: bytes = b""
    ) -> Reservation | Refusal | WindowMoved:
        """See `BudgetStore.reserve`."""
        checked_amount(amount_nusd)
        attempt = checked_attempt(attempt_id).encode()
        call = self._calls(buckets).reserve
        encoded = call.encode_attempt(self._attempt_prefix + attempt, attempt, b"%d" % amount_nusd, b"", note)
        try:
            answer = await self._run(call, encoded)
        except NotSent:
            raise
        except (StoreUnavailable, asyncio.CancelledError):
            # It may be held by now, and nobody would ever settle it.
            self._doubtful.append(attempt_id)
            self._clear_doubt()
            raise
        return _reserved(answer, attempt_id, amount_nusd, amount_nusd, buckets)

    async def extend(self, held: Reservation, *, by_nusd: int) -> Reservation | Refusal:
        """See `BudgetStore.extend`."""
        total = checked_amount(held.amount_nusd + checked_amount(by_nusd))
        attempt = checked_attempt(held.attempt_id).encode()
        call = self._calls(held.buckets).reserve
        answer = await self._run(call, call.encode_attempt(self._attempt_prefix + attempt, attempt, b"%d" % total, b"1", b""))
        # The script looks at windows only when it reserves: an extension stays in those it began in.
        return cast("Reservation | Refusal", _reserved(answer, held.attempt_id, total, by_nusd, held.buckets))

    async def settle(self, held: Reservation, *, charge_nusd: int, record: bytes) -> bool:
        """See `BudgetStore.settle`."""
        attempt = checked_attempt(held.attempt_id).encode()
        call = self._calls(held.buckets).settle
        encoded = call.encode_attempt(self._attempt_prefix + attempt, attempt, b"%d" % checked_amount(charge_nusd), b"", record)
        return bool(await self._run(call, encoded) == 1)

    async def void(self, held: Reservation) -> bool:
        """See `BudgetStore.void`."""
        return await self._void(checked_attempt(held.attempt_id), held.buckets)

    async def _void(self, attempt_id: str, buckets: BucketSet) -> bool:
        attempt = attempt_id.encode()
        call = self._calls(buckets).settle
        answer = await self._run(call, call.encode_attempt(self._attempt_prefix + attempt, attempt, b"0", b"1", b""))
        return bool(answer == 1)

    def _clear_doubt(self) -> None:
        if self._doubtful and (self._clearing is None or self._clearing.done()):
            self._clearing = asyncio.get_running_loop().create_task(self._void_doubtful())

    async def _void_doubtful(self) -> None:
        nothing = BucketSet(buckets=(), valid_until_ms=0)
        while self._doubtful:
            attempt_id = self._doubtful[0]
            try:
                await self._void(attempt_id, nothing)
            except StoreUnavailable:
                # Tried again when the connection is back, and with every heartbeat.
                return
            if self._doubtful and self._doubtful[0] == attempt_id:
                self._doubtful.popleft()

    # -- Lease -------------------------------------------------------------------------------------------------

    async def heartbeat(self, progress: Mapping[str, int]) -> None:
        """See `Lease.heartbeat`."""
        await self._beat(self.lease_ms, progress)
        self._clear_doubt()

    async def _beat(self, lease_ms: int, progress: Mapping[str, int]) -> None:
        pairs = [v for attempt_id, burnt in progress.items() for v in (attempt_id.encode(), b"%d" % checked_amount(burnt))]
        call = Call(script("heartbeat"), [self.keys.leases], [self.replica, lease_ms], more_args=len(pairs))
        await self._run(call, call.encode((self.keys.progress + self.replica).encode(), *pairs))

    async def sweep(self) -> int:
        """See `Lease.sweep`."""
        keys = self.keys
        static: list[str | int] = [keys.attempts, keys.counters, SWEEP_LIMIT, SWEPT_MS, KEEP_MS]
        call = Call(script("sweep"), [keys.leases, keys.open_holds, keys.progress, keys.log], static, more_args=0)
        encoded = call.encode(keys.index.encode())
        total = 0
        while swept := await self._run(call, encoded):
            total += swept
        return total

    async def release(self) -> None:
        """See `Lease.release`."""
        await self._beat(-1, {})

    # -- Books -------------------------------------------------------------------------------------------------

    async def publish_limits(self, limits: Mapping[str, int], *, version: str) -> None:
        """See `Books.publish_limits`."""
        pairs = [v for name, limit in limits.items() for v in (name, checked_amount(limit))]
        # In one transaction: no reserve may see a ledger without limits.
        calls = [self._read("MULTI"), self._read("DEL", self.keys.limits)]
        if pairs:
            calls.append(self._read("HSET", self.keys.limits, *pairs))
        calls += [self._read("SET", self.keys.limits_version, version), self._read("EXEC")]
        await asyncio.gather(*calls)

    async def bucket_states(self, *, budget: str | None = None, current_only: bool = True) -> Sequence[BucketState]:
        """See `Books.bucket_states`."""
        return await reads.bucket_states(self._read, self.keys, budget=budget, current_only=current_only)

    async def records(self, *, since_ms: int = 0, until_ms: int | None = None) -> AsyncIterator[bytes]:
        """See `Books.records`."""
        async for entry in reads.entries(self._read, self.keys, since_ms=since_ms, until_ms=until_ms):
            yield present(entry)

    async def verify(self) -> Sequence[Drift]:
        """See `Books.verify`."""
        return await reads.drift(self._read, self.keys)

    async def ping(self) -> None:
        """See `Books.ping`."""
        try:
            await self._open_wire(self._wire).call(command("PING"))
        except hiredis.ReplyError as error:
            raise StoreUnavailable(f"Redis cannot serve: {error}") from error

    # -- KeyStore ----------------------------------------------------------------------------------------------

    async def pepper(self) -> bytes:
        """See `KeyStore.pepper`."""
        await self._read("SET", self.keys.pepper, secrets.token_bytes(32), "NX")
        return bytes(await self._read("GET", self.keys.pepper))

    async def get_key(self, key_id: str) -> StoredKey | None:
        """The key with this id, if there is one."""
        found = await self._read("HGET", self.keys.virtual_keys, key_id)
        return None if found is None else msgspec.json.decode(found, type=StoredKey)

    async def put_key(self, key: StoredKey) -> None:
        """See `KeyStore.put_key`."""
        await self._read("HSET", self.keys.virtual_keys, key.key_id, msgspec.json.encode(key))

    async def list_keys(self) -> Sequence[StoredKey]:
        """All keys, by id."""
        found = await self._read("HVALS", self.keys.virtual_keys)
        return sorted((msgspec.json.decode(v, type=StoredKey) for v in found), key=lambda key: key.key_id)


def _reserved(answer: list[int], attempt_id: str, total: int, by: int, buckets: BucketSet) -> Reservation | Refusal | WindowMoved:
    """Read the answer of `reserve.lua`."""
    kind = answer[0]
    if kind == 0:
        at = answer[1]
        tightest: Bucket | None = buckets.buckets[at - 1] if at else None
        left = answer[2] if at else None
        return Reservation(attempt_id=attempt_id, amount_nusd=total, buckets=buckets, tightest=tightest, tightest_left_nusd=left)
    if kind == 1:
        return Refusal(
            bucket=buckets.buckets[answer[1] - 1], limit_nusd=answer[2], spent_nusd=answer[3], held_nusd=answer[4], needed_nusd=by
        )
    if kind == 2:
        return WindowMoved(now_ms=answer[1])
    return Reservation(attempt_id=attempt_id, amount_nusd=answer[1], buckets=buckets)
