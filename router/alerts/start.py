"""Plugs the service of alerts together. Loaded only where somebody is to be told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from router.alerts.local import Local
from router.alerts.receivers import sender_of
from router.alerts.watch import Alerts, Sources
from router.domain.budgets import BucketState
from router.fleet import Fleet
from router.metrics import Metrics
from router.ports import Drift, Ledger, Upstream
from router.snapshot import Snapshot
from router.store_watch import StoreWatch


def start_alerts(
    ledger: Ledger,
    *,
    owner: str,
    snapshot: Callable[[], Snapshot],
    states: Callable[[], Sequence[BucketState]],
    drifts: Callable[[], Sequence[Drift] | None],
    store_watch: StoreWatch,
    fleet: Fleet,
    metrics: Metrics,
    http: Upstream,
) -> Alerts:
    """Begin to look. `owner` is unique to this process; `http` is what webhooks are called with."""
    alerts = Alerts(
        store=ledger.alert_store(),
        owner=owner,
        sources=Sources(snapshot=snapshot, states=states, drifts=drifts, store_up=lambda: store_watch.is_up),
        local=Local(counted=metrics.counted, health=fleet.states, troubles=fleet.troubles),
        sender_of=partial(sender_of, upstream=http, clock=time.time),
        counter=metrics,
        clock_ms=lambda: time.time_ns() // 1_000_000,
        store_away=store_watch.away,
    )
    alerts.start()
    return alerts
