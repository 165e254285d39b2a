"""Where everything is plugged together: the only module that knows which adapter is behind which port."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from router import intervals
from router.adapters.choose import file_of, open_ledger, open_register, outbox_path, store_of
from router.adapters.lanes import Lanes
from router.adapters.upstream.http1 import Http1Upstream
from router.admin.feedback import FeedbackDesk
from router.admin.front import Front
from router.admin.pages import Pages
from router.admin.views import View
from router.admission import Admission, Closed
from router.budget_watch import BUDGETS_SECONDS, MOST_AUDITED, BudgetWatch
from router.call import Attempt
from router.controls import Desk
from router.dispatch import Dispatcher
from router.domain.budgets import Bucket
from router.edge.gate import Gate
from router.edge.headers import Headers
from router.errors import ConfigError, RouterError, StoreUnavailable
from router.experience import EXPERIENCE_SECONDS, Exchange
from router.fleet import Fleet
from router.kept_prompts import open_logs
from router.limit_changes import changed_limits
from router.live import new_ids
from router.live_controls import POLL_SECONDS, LiveControls
from router.metrics import Metrics
from router.metrics_gauges import process_gauges, set_budgets, set_configuration, set_deployments, set_drift, set_learned
from router.metrics_ledger import MeteredStore
from router.metrics_store import Scrape
from router.outbox import Outbox
from router.pipeline import Pipeline
from router.ports import Drift, Ledger
from router.ratings import RATINGS_SECONDS, Ratings
from router.reload import Reloader, goes_on_alone, keep_fixed, reload_notes
from router.reservation import Reservations, burnt_nusd
from router.settlement import Settlements
from router.shares import SHARES_SECONDS, Shares
from router.siblings import Siblings
from router.snapshot import Snapshot
from router.store_watch import StoreWatch
from router.tasks import Background
from router.trimming import trim
from router.versions import Versions

if TYPE_CHECKING:
    from router.admin.office import Office
    from router.alerts.watch import Alerts
    from router.escrow import Escrow

log = structlog.get_logger("faregate.app")


def wall_clock_ms() -> int:
    """Unix milliseconds by this machine."""
    return time.time_ns() // 1_000_000


class Service:
    """One process's share of the service: everything but the listening socket."""

    _office: Office | None = None
    """What answers administrators; None: nobody is one."""

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        worker: int = 0,
        run_folder: str | None = None,
        log_target: int | str | None = None,
        load: Callable[[], Snapshot] | None = None,
    ) -> None:
        """`worker` is the number of this process among its siblings; `run_folder` is where they meet.

        `log_target` is a file descriptor or path for the request log; None: standard output. `load` reads the
        configuration anew; None: it is fixed.
        """
        self.snapshot = snapshot
        self.metrics = Metrics()
        self.fleet = Fleet(time.monotonic)
        self.live: dict[str, Attempt] = {}
        self.host = snapshot.server.host
        """Address that is listened on, if it is not another one than the configuration's."""
        self.draining = False
        self.started = int(time.time())
        self.boot = os.urandom(8).hex()
        self._new_id = new_ids(f"fg-{self.boot}-")
        self.worker = worker
        self.run_folder = run_folder
        self._log_target = 1 if log_target is None else log_target
        self._siblings = Siblings(run_folder, worker, dump=self.metrics.dump, render_alone=self.metrics.render)
        self._stack = AsyncExitStack()
        self._store_watch = StoreWatch(time.monotonic)
        self._background = Background(store_away=self._store_watch.away)
        self._drifts: Sequence[Drift] | None = None
        """What the last audit found; None while another process does it."""
        self._ready_until = 0.0
        self._resets = 0
        self.loaded_at = time.time()
        self._lanes = Lanes(self._stack)
        self.reloader = None if load is None else Reloader(self, load, instead=self._rolled_back_to)
        self._alerts: Alerts | None = None

    async def start(self) -> None:
        """Open the store, start what runs in the background, and build the pipeline.

        Raises:
            ConfigError: the store cannot be trusted with money, or an extra is missing.
            StoreUnavailable: it does not answer.
        """
        server = self.snapshot.server
        store = self.store = store_of(self.snapshot)
        # A file has a limit of its own: it waits for other processes, not for a server.
        self.ledger: Ledger = open_ledger(store, timeout_seconds=server.store_timeout_seconds if file_of(store) is None else None)
        await self._open_ledger(server.lease_seconds)
        self._stack.push_async_callback(self.ledger.close)
        snapshot = await self._take_control()
        await self.shares.look()
        self.exchange = Exchange(self.ledger.experience_store(), self.fleet)
        await self.exchange.look()
        self._stack.push_async_callback(self.exchange.close)
        self.escrow = self._make_escrow(snapshot)
        self.metered = MeteredStore(self.escrow or self.ledger, self.metrics, clock=time.monotonic)
        self.outbox = Outbox(outbox_path(store, self.worker), self.metered)
        await self.outbox.start()
        self._stack.push_async_callback(self.outbox.close)
        self._pepper = await self.ledger.pepper()
        self.admission = Admission(snapshot, self.ledger, pepper=self._pepper, clock=time.time)
        await self.admission.refresh()
        self._request_log, self._prompts = open_logs(server, self._log_target, self._stack)
        self.pipeline = self._make_pipeline(snapshot, self.admission, await self._lanes.dispatcher(snapshot))
        await self.pipeline.warm_up()
        self._make_gate()
        await self._open_office(snapshot)
        self._configure_metrics()
        await self._siblings.start()
        self._stack.push_async_callback(self._siblings.close)
        self._run_background(server.lease_seconds)

    def _make_escrow(self, snapshot: Snapshot) -> Escrow | None:
        """What goes on while the store is away, if the configuration wants anything to."""
        if not goes_on_alone(snapshot):
            return None
        from router.escrow import Escrow

        self._store_watch.meanwhile = "calls are served as `when_store_is_down` says"
        return Escrow(
            self.ledger,
            snapshot=snapshot,
            replica=self.boot,
            states=lambda: self.budget_watch.states,
            metrics=self.metrics,
            clock=time.monotonic,
            clock_ms=wall_clock_ms,
        )

    async def _take_control(self) -> Snapshot:
        """See what people changed, and publish the limits of what is served with that on top."""
        self.budget_watch = BudgetWatch(
            self.ledger,
            snapshot=lambda: self.snapshot,
            own=self._used_last,
            goes_through=lambda: self.worker == 0 or (self._alerts is not None and self._alerts.leads),
            clock=time.monotonic,
            clock_ms=wall_clock_ms,
        )
        self.shares = Shares(self.ledger, snapshot=lambda: self.snapshot, open_register=open_register)
        self._stack.push_async_callback(self.shares.close)
        self._control_store = self.ledger.control_store()
        self.versions = Versions(self.ledger.shelf())
        self.controls = LiveControls(self._control_store, self.fleet, keys_changed=lambda: self.admission.forget(), reload=self.reload_soon)
        before = await Desk(self._control_store, who="", via="").state()
        if self.reloader is not None:
            self.snapshot = keep_fixed(await self.versions.at_start(before.pin, self.snapshot), self.snapshot)
        snapshot = self.snapshot = await self._lanes.with_simulator(self.snapshot)
        for change in changed_limits(before.base, snapshot.budgets):
            log.warning("a limit in the ledger changes for all that share it", change=change, config_version=snapshot.version)
        await self.controls.publish(snapshot)
        return snapshot

    async def _rolled_back_to(self) -> Snapshot | None:
        pin = self.controls.state.pin
        return None if pin is None else await self.versions.load(pin.version, self.snapshot.source)

    async def _open_office(self, snapshot: Snapshot) -> None:
        """Begin to answer administrators as soon as a configuration names some."""
        if self._office is None and snapshot.admins:
            from router.admin.office import Office

            office = Office(self)
            await office.open()
            self._stack.push_async_callback(office.close)
            self._office, self._front.admin = office, office.asgi
        if self._office is not None:
            self._office.serves(snapshot)

    @property
    def admin_port(self) -> int | None:
        """The port where administrators alone are answered; None: there is none."""
        return None if self._office is None else self._office.port

    def _make_gate(self) -> None:
        self._view = View(
            snapshot=self.snapshot,
            admission=self.admission,
            books=self.ledger,
            fleet=self.fleet,
            clock_ms=wall_clock_ms,
            started=self.started,
        )
        pages = Pages(self._view, metrics=self.scrape, ready=self.missing, notes=self.notes)
        self.ratings = Ratings(self.ledger.feedback_store(), self.fleet.memory, self.metrics)
        self._stack.push_async_callback(self.ratings.close)
        self._front = Front(pages, new_id=self._new_id, feedback=FeedbackDesk(self._view, self.ratings, self.metrics))
        self.gate = Gate(call=self.pipeline.serve, refuses_early=self.refuses_early, asgi=self._front, settings=self.snapshot.server)

    async def swap(self, snapshot: Snapshot) -> None:
        """Serve by another configuration from now on; requests under way end by the one they began with.

        What is fixed for the life of a process stays as it is; see `reload.keep_fixed`.

        Raises:
            ConfigError: an extra is missing.
            StoreUnavailable: the limits could not be published; nothing has changed.
        """
        snapshot = await self._lanes.with_simulator(keep_fixed(snapshot, self.snapshot))
        dispatcher = await self._lanes.dispatcher(snapshot)
        admission = Admission(snapshot, self.ledger, pepper=self._pepper, clock=time.time)
        await admission.refresh()
        pipeline = self._make_pipeline(snapshot, admission, dispatcher)
        await pipeline.warm_up()
        await self._open_office(snapshot)
        await self.controls.publish(snapshot)
        # From here on nothing can fail, and nobody else runs in between.
        self.snapshot, self.admission = snapshot, admission
        self.metrics.configure(snapshot)
        if self.escrow is not None:
            self.escrow.configure(snapshot)
        self.pipeline = pipeline.in_place_of(self.pipeline)
        self._view.switch(snapshot, admission)
        self.gate.switch(self.pipeline.serve)
        if self.draining:
            self.drain()
        self.loaded_at = time.time()

    async def _open_ledger(self, lease_seconds: float) -> None:
        """Open the store; one that starts at the same time as we do is waited for."""
        replica = f"{socket.gethostname()[:40]}-{os.getpid()}-{self.boot}"
        trying = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            stop=stop_after_delay(intervals.STORE_START),
            wait=wait_fixed(0.5),
            reraise=True,
        )
        try:
            async for attempt in trying:
                with attempt:
                    await self._open_once(replica, lease_seconds)
        except StoreUnavailable as exc:
            raise ConfigError(f"store: {exc}; given up after {intervals.STORE_START:.0f} s. Start it, or correct server.store.") from exc

    async def _open_once(self, replica: str, lease_seconds: float) -> None:
        try:
            await self.ledger.open(replica_id=replica, lease_seconds=lease_seconds)
        except StoreUnavailable as exc:
            log.warning("waiting for the budget store", reason=str(exc), at_most_seconds=intervals.STORE_START)
            raise

    def _make_pipeline(self, snapshot: Snapshot, admission: Admission, dispatcher: Dispatcher) -> Pipeline:
        return Pipeline(
            snapshot=snapshot,
            admission=admission,
            fleet=self.fleet,
            reservations=Reservations(snapshot, self.metered, wall_clock_ms),
            store=self.metered,
            dispatcher=dispatcher,
            settlements=Settlements(self.outbox, self.metrics, clock=time.monotonic, clock_ms=wall_clock_ms),
            metrics=self.metrics,
            log=self._request_log,
            prompts=self._prompts,
            controls=self.controls,
            live=self.live,
            clock=time.monotonic,
            clock_ms=wall_clock_ms,
            random=random.random,
            new_id=self._new_id,
        )

    def reload_soon(self) -> None:
        """Read the configuration anew, if it can be."""
        if self.reloader is not None:
            self.reloader.soon()

    def drain(self) -> None:
        """Begin no call any more; those under way go on. Health and metrics are answered to the end."""
        self.draining = self.gate.draining = True
        self.pipeline.admission = closed = Closed()
        self._view.switch(self.snapshot, closed)

    # What the gate asks

    def refuses_early(self, headers: Headers) -> bool:
        """Whether the key is certainly wrong, or nobody is let in."""
        try:
            self.pipeline.admission.identify(headers)
        except RouterError:
            return self._office is None or not self._office.knows(headers)
        return False

    # Health and metrics

    async def missing(self) -> str:
        """What keeps the service from being ready; empty if nothing does."""
        if self.draining:
            return "draining"
        now = time.monotonic()
        if now >= self._ready_until:
            try:
                await self.ledger.ping()
            except StoreUnavailable as exc:
                self._store_watch.away(str(exc))
                if self.escrow is None or not self.escrow.serves:
                    return f"the budget store does not answer: {exc}"
                return ""
            self._store_watch.back()
            self._ready_until = now + intervals.READY
        return ""

    def notes(self) -> list[str]:
        """What is worth knowing although the service is ready."""
        notes = [] if self.reloader is None else reload_notes(self.reloader, self.controls.state.pin)
        return notes if self.escrow is None or self._store_watch.is_up else [*notes, self.escrow.note()]

    async def scrape(self) -> bytes:
        """The metrics of all workers."""
        return await self._siblings.render()

    def _configure_metrics(self) -> None:
        self.metrics.configure(self.snapshot)
        self.metrics.on_scrape(process_gauges())

        def set_gauges(scrape: Scrape) -> None:
            snapshot = self.snapshot
            last_reload_ok = self.reloader is None or not self.reloader.findings
            set_configuration(scrape, version=snapshot.version, loaded_at_seconds=self.loaded_at, last_reload_ok=last_reload_ok)
            set_budgets(scrape, snapshot.budgets, self.budget_watch.states, self.controls.state, self.budget_watch.many)
            views = ((name, self.fleet.view(name, each.max_in_flight)) for name, each in snapshot.deployments.items())
            set_deployments(scrape, {name: (view.health, view.in_flight) for name, view in views})
            set_learned(scrape, self.fleet.memory)
            for budget, share in self.pipeline.shortages.usable():
                scrape.set("faregate_budget_usable_ratio", share, budget=budget)
            if self._drifts is not None:
                set_drift(scrape, snapshot.budgets, self._drifts)
            scrape.set("faregate_store_up", float(self._store_watch.is_up))
            scrape.set("faregate_outbox_entries", self.outbox.depth)
            if self.escrow is not None:
                self.escrow.show(scrape)
            self.shares.show(scrape)
            scrape.set("faregate_holds_open", len(self.live))
            if self._request_log is not None:
                scrape.set("faregate_log_lines_dropped_total", self._request_log.dropped_lines)

        self.metrics.on_scrape(set_gauges)

    # Background

    def _run_background(self, lease_seconds: float) -> None:
        every = self._background.every
        every(lease_seconds / 3, self._beat, name="heartbeat")
        every(lease_seconds / 2, self._sweep, name="sweep")
        if self.escrow is not None:
            self.escrow.attach(self.outbox)
            every(self.escrow.pause_seconds, self.escrow.refresh, name="escrow")
        every(intervals.KEYS, self.admission.refresh, name="keys")
        every(intervals.WATCH, self._look_for_store, name="store")
        if self.reloader is not None:
            every(0.0, self.reloader.look, name="reload")
        every(POLL_SECONDS, self.controls.poll, name="controls", at_once=True)
        every(RATINGS_SECONDS, self.ratings.look, name="ratings")
        every(EXPERIENCE_SECONDS, self.exchange.beat, name="experience")
        every(BUDGETS_SECONDS, self._read_budgets, name="budgets", at_once=True)
        every(BUDGETS_SECONDS, self.budget_watch.go_through, name="all budgets")
        every(intervals.ALERTS, self._look_after_alerts, name="alerts", at_once=True)
        every(intervals.PAUSES, self._sync_pauses, name="pauses", at_once=True)
        every(intervals.AUDIT, self._audit, name="audit")
        every(intervals.TRIM, lambda: trim(self.ledger, self._control_store, self.snapshot.server, now_ms=wall_clock_ms()), name="trim")
        if self.worker == 0:
            every(SHARES_SECONDS, self.shares.look, name="shares")
        every(intervals.PRICES, self._reprice, name="prices")

    async def _beat(self) -> None:
        await self.ledger.heartbeat({attempt_id: burnt_nusd(attempt) for attempt_id, attempt in self.live.items()})
        if self.ledger.resets != self._resets:
            await self._after_reset()

    async def _after_reset(self) -> None:
        """Say that the ledger forgot what was spent, and publish its limits again."""
        await self.controls.publish(self.snapshot)
        self._resets = self.ledger.resets
        self.metrics.ledger_reset()
        log.error("the ledger was emptied or replaced: what was spent is forgotten, every budget has its full limit again")

    async def _reprice(self) -> None:
        """Take prices into use whose time has come."""
        now_ms = wall_clock_ms()
        changed = [name for name, deployment in self.snapshot.deployments.items() if deployment.reprice(now_ms)]
        if changed:
            self.pipeline.prices_changed()
            log.info("prices have changed", deployments=changed)

    async def _look_for_store(self) -> None:
        """Notice early that a store is back; that it went is noticed by whoever needs it."""
        if not self._store_watch.is_up:
            await self.ledger.ping()
            self._store_watch.back()

    async def _sweep(self) -> None:
        swept = await self.ledger.sweep()
        if swept:
            self.metrics.swept(swept)
            log.warning("holds of dead processes were charged", holds=swept)

    async def _read_budgets(self) -> None:
        watch, pipeline = self.budget_watch, self.pipeline
        await watch.read()
        pipeline.steering.read(watch.states, whole=watch.whole, now_ms=wall_clock_ms())
        self.fleet.memory.read_budgets(watch.states, self.snapshot.budgets)
        if pipeline.moments is not None:
            pipeline.moments.read(watch.states, whole=watch.whole)

    def _used_last(self) -> Iterable[Bucket]:
        pipeline, covered = self.pipeline, () if self.escrow is None else self.escrow.covered()
        return chain(pipeline.steering.steered(wall_clock_ms()), covered, pipeline.reservations.latest())

    async def _sync_pauses(self) -> None:
        if self.pipeline.runaway is not None:
            await self.pipeline.runaway.sync(self.ledger.alert_store())

    async def _audit(self) -> None:
        """Compare counters and log; one process of all that share the ledger does it."""
        self._drifts = await self.ledger.audit() if self.budget_watch.count <= MOST_AUDITED else None
        if self._drifts:
            log.error("counters of the ledger differ from its log", counters=len(self._drifts), first=self._drifts[0].bucket)

    async def _look_after_alerts(self) -> None:
        """Begin to look for what people are told of as soon as a configuration names some."""
        if self._alerts is None and self.snapshot.receivers:
            from router.alerts.start import start_alerts

            http = Http1Upstream()
            self._stack.push_async_callback(http.close)
            self._alerts = start_alerts(
                self.ledger,
                owner=self.boot,
                snapshot=lambda: self.snapshot,
                states=lambda: self.budget_watch.states,
                drifts=lambda: self._drifts,
                store_watch=self._store_watch,
                fleet=self.fleet,
                metrics=self.metrics,
                http=http,
            )
            self._stack.push_async_callback(self._alerts.close)

    async def stop(self) -> None:
        """Settle what is open and close everything, in the reverse order of the start."""
        self.draining = True
        await self._background.close()
        await self.fleet.memory.close()
        with suppress(StoreUnavailable, AttributeError):
            if self.escrow is not None:
                await self.escrow.close()
            await self.ledger.release()
        await self._stack.aclose()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()
