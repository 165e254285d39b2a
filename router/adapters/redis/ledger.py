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

from router.adapters.entries import (
    AUDITOR_MS,
    IDLE_MS,
    KEEP_INVENTED_MS,
    KEEP_MS,
    MOST_LEASES,
    SWEPT_MS,
    TOMBSTONE_MS,
    checked_amount,
    checked_attempt,
    crowded,
    in_unit,
    is_attempt,
    is_special,
    plan,
    present,
    share_rest,
)
from router.adapters.redis import reads
from router.adapters.redis.address import parse_url
from router.adapters.redis.audit import Audit
from router.adapters.redis.checks import check_server
from router.adapters.redis.controls import RedisControls
from router.adapters.redis.corrections import RedisCorrections
from router.adapters.redis.experience import RedisExperience
from router.adapters.redis.feedback import RedisFeedback
from router.adapters.redis.keys import Keys, counter_fields, lease_field, limit_field
from router.adapters.redis.markers import RedisMarkers
from router.adapters.redis.readers import RedisReaders
from router.adapters.redis.scripts import NAMES, attempt_call, bucket_letters, bucket_line, command, script, script_call
from router.adapters.redis.shelf import RedisShelf
from router.adapters.redis.wire import NO_WIRE, NotSent, NoWire, Wire
from router.domain.budgets import Bucket, BucketSet, BucketState, Refusal, Reservation, WindowMoved
from router.domain.money import MAX_NUSD
from router.domain.windows import bucket_id, escape_scope
from router.errors import ConfigError, StoreUnavailable
from router.ports import Drift, StoredKey

SWEEP_LIMIT: Final = 256
"""Holds that one script call looks at: bounds how long others wait for the server."""
TRIM_LIMIT: Final = 256
"""Most entries of the log that one script call drops."""
READ_TIMEOUT_SECONDS: Final = 5.0

log = logging.getLogger("faregate.store")


class _Calls:
    """The calls of one bucket set as templates: ready but for attempt, amount and payload (see `attempt_call`)."""

    __slots__ = ("buckets", "extend", "plain", "reserve", "settle", "void")

    def __init__(self, ledger: RedisLedger, buckets: BucketSet) -> None:
        made, keys = plan(buckets), ledger.keys
        self.buckets = made.buckets
        self.plain = made.plain == len(made.buckets)
        # What is seldom needed goes in one argument: the server pays for every one.
        told = [f"{ledger.replica}\n{ledger.lease_ms}", *map(bucket_line, made.buckets)]
        begun = f"\n0\n0\n{made.joined}\n\n{ledger.replica}\n"
        # A limit that does not refuse is not looked up.
        limits = [limit_field(name) if b.hard or is_special(b) else "" for name, b in zip(made.ids, made.buckets, strict=True)]
        letters = "".join(map(bucket_letters, made.buckets[made.plain :]))
        windows: list[str | int] = ["\n".join(told), begun, made.starts_ms, made.ends_ms]
        shared = [*windows, lease_field(ledger.replica), *limits, *made.ids]
        into = [keys.books, keys.open_holds, keys.index, keys.leases]
        self.reserve = attempt_call("reserve", into, keys.attempts, ["0" + letters, *shared])
        self.extend = attempt_call("reserve", into, keys.attempts, ["1" + letters, *shared])
        spending = [field for name in made.ids for field in counter_fields(name)[:2]]
        booked: list[str | int] = [made.joined, TOMBSTONE_MS, "".join(f"{b.ends_ms}\t" for b in made.buckets), *spending]
        into = [keys.books, keys.open_holds, keys.index, keys.log]
        self.settle = attempt_call("settle", into, keys.attempts, ["0" if self.plain else f"0u{made.plain}", *booked])
        self.void = attempt_call("settle", into, keys.attempts, ["1" if self.plain else f"1u{made.plain}", *booked])


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
        self.resets = 0
        self._ledger_id: bytes | None = None
        self._prefix_length = len(self.keys.attempts)
        self._encoded_name = ""
        self._wire: Wire | NoWire = NO_WIRE
        self._reads: Wire | NoWire = NO_WIRE
        self._audit: Audit | None = None
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
        probe = command("GET", self.keys.ledger_id)
        self._wire = Wire(self._address, timeout_seconds=self._timeout_seconds, probe=probe, on_connect=self._on_connect)
        reading = max(READ_TIMEOUT_SECONDS, self._timeout_seconds)
        self._reads = Wire(self._address, timeout_seconds=reading, patient=True, probe=probe)
        try:
            await self._wire.open()
            await self._reads.open()
            self.warnings = await check_server(self._reads)
            for warning in self.warnings:
                log.warning(warning)
            try:
                await self._teach(self._reads)
            except hiredis.ReplyError as error:
                raise ConfigError(
                    f"store: Redis refuses what the ledger needs: {error}. See docs/operations.md for the rights of its user."
                ) from error
            await self.heartbeat({})
        except BaseException:
            await self.close()
            raise

    def _on_connect(self, run_id: str) -> None:
        self.run_id = run_id
        # After a failover the old master still answers reads: with what it last knew.
        if isinstance(self._reads, Wire) and self._reads.info.get("run_id", "") not in ("", run_id):
            self._reads.leave()
        self._clear_doubt()

    async def close(self) -> None:
        """Close the connections; what still waits fails."""
        clearing, self._clearing = self._clearing, None
        if clearing is not None:
            clearing.cancel()
            await asyncio.wait([clearing])
        for wire in (self._wire, self._reads):
            await wire.close()
        self._wire = self._reads = NO_WIRE

    def control_store(self) -> RedisControls:
        """What people change while the service runs, and who changed it."""
        return RedisControls(self._read, self.keys)

    def corrections(self) -> RedisCorrections:
        """Changes of old charges."""
        return RedisCorrections(self._read, self.keys)

    def readers(self) -> RedisReaders:
        """Who keeps records elsewhere."""
        return RedisReaders(self._read, self.keys)

    def shelf(self) -> RedisShelf:
        """Texts of the configuration."""
        return RedisShelf(self._read, self.keys)

    def experience_store(self) -> RedisExperience:
        """What processes have learned."""
        return RedisExperience(self._read, self.keys)

    def feedback_store(self) -> RedisFeedback:
        """What clients say of answers."""
        return RedisFeedback(self._read, self.keys)

    def alert_store(self) -> RedisMarkers:
        """What alerts keep here."""
        return RedisMarkers(self._read, self.keys)

    @property
    def writes(self) -> int:
        """Socket writes on the present connection: many commands share one."""
        return self._wire.writes

    @property
    def in_doubt(self) -> int:
        """Reserves whose answer was never heard and that are still to be voided."""
        return len(self._doubtful)

    async def _run(self, encoded: bytes) -> Any:
        """Call a script; one that the server has forgotten is taught.

        A call that the server answered with an error has done nothing, and a second delivery is harmless.

        Raises:
            NotSent: there is no connection.
            StoreUnavailable: the server does not answer, or cannot serve.
        """
        wire = self._wire
        try:
            return await wire.call(encoded)
        except hiredis.ReplyError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise StoreUnavailable(f"Redis cannot serve: {error}") from error
        try:
            await self._teach(wire)
            return await wire.call(encoded)
        except hiredis.ReplyError as error:
            raise StoreUnavailable(f"Redis cannot serve: {error}") from error

    async def _teach(self, wire: Wire | NoWire) -> None:
        for name in NAMES:
            await wire.call(command("SCRIPT", "LOAD", script(name).text))

    async def _read(self, *values: str | bytes | int) -> Any:
        try:
            return await self._reads.call(command(*values))
        except hiredis.ReplyError as error:
            raise StoreUnavailable(f"Redis cannot serve: {error}") from error

    def _calls(self, buckets: BucketSet) -> _Calls:
        calls: _Calls | None = buckets.encoded.get(self._encoded_name)
        if calls is None:
            calls = buckets.encoded[self._encoded_name] = _Calls(self, buckets)
        return calls

    # -- BudgetStore -------------------------------------------------------------------------------------------

    async def reserve(
        self, *, attempt_id: str, amount_nusd: int, buckets: BucketSet, note: bytes = b"", tokens: int = 0
    ) -> Reservation | Refusal | WindowMoved:
        """See `BudgetStore.reserve`."""
        if type(amount_nusd) is not int or not 0 <= amount_nusd <= MAX_NUSD or is_attempt(attempt_id) is None:
            checked_amount(amount_nusd)
            checked_attempt(attempt_id)
        calls = buckets.encoded.get(self._encoded_name) or self._calls(buckets)
        amount = b"%d" % amount_nusd if calls.plain else b"%d %d" % (amount_nusd, checked_amount(tokens))
        encoded = calls.reserve % (self._prefix_length + len(attempt_id), attempt_id.encode(), len(amount), amount, len(note), note)
        try:
            # The way of nearly every call, with no coroutine more to wake.
            answer = await self._wire.send(encoded)
            if type(answer) is not list:
                answer = await self._run(encoded)
        except NotSent:
            raise
        except (StoreUnavailable, asyncio.CancelledError):
            # It may be held by now, and nobody would ever settle it.
            self._doubtful.append(attempt_id)
            self._clear_doubt()
            raise
        place = answer[0]
        if place > 0 and calls.plain:
            return Reservation(
                attempt_id=attempt_id,
                amount_nusd=amount_nusd,
                buckets=buckets,
                tightest=calls.buckets[place - 1],
                tightest_left_nusd=answer[1],
            )
        if place == -4:
            if not self._share_rest(calls.buckets[answer[1] - 1], buckets):
                return crowded(calls.buckets[answer[1] - 1])
            return await self.reserve(attempt_id=attempt_id, amount_nusd=amount_nusd, buckets=buckets, note=note, tokens=tokens)
        return _reserved(answer, attempt_id, amount_nusd, amount_nusd, tokens, buckets)

    def _share_rest(self, bucket: Bucket, buckets: BucketSet) -> bool:
        """From now on, let a set count in the scope that all share which came too late; false if there is none."""
        if bucket.shares_rest:
            share_rest(bucket, buckets)
            buckets.encoded.pop(self._encoded_name, None)
        return bucket.shares_rest

    async def extend(self, held: Reservation, *, by_nusd: int) -> Reservation | Refusal:
        """See `BudgetStore.extend`."""
        total = checked_amount(held.amount_nusd + checked_amount(by_nusd))
        calls = self._calls(held.buckets)
        answer = await self._run(self._encode(calls.extend, held.attempt_id, b"%d" % total if calls.plain else b"%d 0" % total))
        # The script looks at windows only when it reserves: an extension stays in those it began in.
        return cast("Reservation | Refusal", _reserved(answer, held.attempt_id, total, by_nusd, held.tokens, held.buckets))

    async def settle(self, held: Reservation, *, charge_nusd: int, record: bytes, tokens: int | None = None) -> bool:
        """See `BudgetStore.settle`."""
        attempt_id, buckets = held.attempt_id, held.buckets
        if type(charge_nusd) is not int or not 0 <= charge_nusd <= MAX_NUSD or is_attempt(attempt_id) is None:
            checked_amount(charge_nusd)
            checked_attempt(attempt_id)
        calls = buckets.encoded.get(self._encoded_name) or self._calls(buckets)
        charge = b"%d" % charge_nusd
        if not calls.plain:
            charge += b" " if tokens is None else b" %d" % checked_amount(tokens)
        encoded = calls.settle % (self._prefix_length + len(attempt_id), attempt_id.encode(), len(charge), charge, len(record), record)
        answer = await self._wire.send(encoded)
        if type(answer) is not int:
            answer = await self._run(encoded)
        # A reply may be anything to the type checker; what it is compared with makes it a bool.
        return answer == 1  # type: ignore[no-any-return]

    async def lend(self, lender_id: str, *, to: Reservation, total_nusd: int, note: bytes = b"") -> bool:
        """See `Lending.lend`."""
        start = self.keys.attempts
        into = [self.keys.open_holds, start + checked_attempt(lender_id), start + checked_attempt(to.attempt_id)]
        answer = await self._run(script_call("lend", into, [checked_amount(total_nusd), self.replica, note, SWEPT_MS]))
        return bool(answer == 1)

    def trust(self, attempt_id: str) -> None:
        """See `Lending.trust`."""
        if self._doubtful and self._doubtful[-1] == attempt_id:
            self._doubtful.pop()

    async def void(self, held: Reservation) -> bool:
        """See `BudgetStore.void`."""
        return await self._void(held.attempt_id, held.buckets)

    async def _void(self, attempt_id: str, buckets: BucketSet) -> bool:
        return bool(await self._run(self._encode(self._calls(buckets).void, attempt_id, b"0")) == 1)

    def _encode(self, template: bytes, attempt_id: str, amount: bytes) -> bytes:
        attempt = checked_attempt(attempt_id).encode()
        return template % (self._prefix_length + len(attempt), attempt, len(amount), amount, 0, b"")

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
        keys = self.keys
        burnt = [v for attempt_id, nusd in progress.items() for v in (keys.attempts + attempt_id, checked_amount(nusd))]
        args: list[str | int] = [self.replica, lease_ms, lease_field(self.replica), secrets.token_hex(8), *burnt]
        into = [keys.leases, keys.progress + self.replica, keys.books, keys.ledger_id]
        found = await self._run(script_call("heartbeat", into, args))
        if self._ledger_id not in (None, found):
            self.resets += 1
        self._ledger_id = found

    async def sweep(self) -> int:
        """See `Lease.sweep`."""
        keys = self.keys
        into = [keys.books, keys.open_holds, keys.leases, keys.log, keys.index, keys.trimmed]
        total, cursor, began_ms = 0, b"0", 0
        swept: int
        while True:
            args: list[str | bytes | int] = [keys.progress, cursor, began_ms, SWEEP_LIMIT, SWEPT_MS, KEEP_MS, KEEP_INVENTED_MS, IDLE_MS]
            args.append(MOST_LEASES * self.lease_ms)
            swept, cursor, began_ms = await self._run(script_call("sweep", into, args))
            total += swept
            if cursor == b"0":
                return total

    async def release(self) -> None:
        """See `Lease.release`."""
        await self._beat(-1, {})

    # -- Books -------------------------------------------------------------------------------------------------

    async def publish_limits(self, limits: Mapping[str, int], *, version: str) -> None:
        """See `Books.publish_limits`."""
        pairs = [v for name, limit in limits.items() for v in (limit_field(escape_scope(name)), checked_amount(limit))]
        # In one step: no reserve may see a ledger without limits.
        await self._run(script_call("limits", [self.keys.books, self.keys.limits_version], [version, *pairs]))

    async def bucket_states(self, *, budget: str | None = None, current_only: bool = True) -> Sequence[BucketState]:
        """See `Books.bucket_states`."""
        return await reads.bucket_states(self._read, self.keys, budget=budget, current_only=current_only)

    async def states_of(self, buckets: Sequence[Bucket]) -> Sequence[BucketState]:
        """See `Books.states_of`."""
        return await reads.states_named(self._read, self.keys, [(bucket_id(bucket), bucket.ends_ms) for bucket in buckets])

    def bucket_pages(self) -> AsyncIterator[Sequence[BucketState]]:
        """See `Books.bucket_pages`."""
        return reads.bucket_pages(self._read, self.keys)

    async def bucket_count(self) -> int:
        """See `Books.bucket_count`."""
        return await reads.bucket_count(self._read, self.keys)

    async def records(self, *, since_ms: int = 0, until_ms: int | None = None) -> AsyncIterator[bytes]:
        """See `Books.records`."""
        async for entry in reads.entries(self._read, self.keys, since_ms=since_ms, until_ms=until_ms):
            yield present(entry)

    async def verify(self) -> Sequence[Drift]:
        """See `Books.verify`."""
        return await Audit(self._read, self.keys).run()

    async def audit(self) -> Sequence[Drift] | None:
        """See `Books.audit`."""
        # Whoever holds it keeps it as long as it comes back; two at once would only do the same work twice.
        keys = self.keys
        if await self._read("SET", keys.auditor, self.replica, "NX", "PX", AUDITOR_MS) is None:
            if await self._read("GET", keys.auditor) != self.replica.encode():
                self._audit = None
                return None
            await self._read("PEXPIRE", keys.auditor, AUDITOR_MS)
        if self._audit is None:
            self._audit = Audit(self._read, self.keys)
        return await self._audit.run()

    async def trim(self, *, before_ms: int) -> int:
        """See `Books.trim`."""
        total = 0
        call = script_call("trim", [self.keys.books, self.keys.log, self.keys.trimmed], [max(0, before_ms - 1), TRIM_LIMIT])
        while trimmed := await self._run(call):
            total += trimmed
        return total

    async def ping(self) -> None:
        """See `Books.ping`."""
        try:
            await self._wire.call(command("PING"))
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


def _reserved(
    answer: list[int], attempt_id: str, total: int, by: int, tokens: int, buckets: BucketSet
) -> Reservation | Refusal | WindowMoved:
    """Read the answer of `reserve.lua`."""
    kind, made = answer[0], plan(buckets)
    if kind >= 0:
        return Reservation(
            attempt_id=attempt_id,
            amount_nusd=total,
            buckets=buckets,
            tightest=made.buckets[kind - 1] if kind else None,
            tightest_left_nusd=answer[1] if kind else None,
            tokens=tokens,
            left=tuple(zip(made.buckets[made.plain :], answer[3:], strict=True)),
            shadowed=made.buckets[answer[2] - 1] if len(answer) > 2 and answer[2] else None,
        )
    if kind == -1:
        bucket = made.buckets[answer[1] - 1]
        return Refusal(
            bucket=bucket,
            limit_nusd=answer[2],
            spent_nusd=answer[3],
            held_nusd=answer[4],
            needed_nusd=in_unit(made.ids[answer[1] - 1], by, tokens, 1),
            retry_after_ms=answer[5] if answer[5] >= 0 else None,
        )
    if kind == -4:
        return crowded(made.buckets[answer[1] - 1])
    if kind == -2:
        return WindowMoved(now_ms=answer[1])
    return Reservation(attempt_id=attempt_id, amount_nusd=answer[1], buckets=buckets, tokens=tokens)
