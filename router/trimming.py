"""Dropping what the ledger need not keep: records that are old, and read by whoever must have read them."""

from __future__ import annotations

import structlog

from router.ports import AuditLog, Ledger
from router.snapshot import ServerSettings

log = structlog.get_logger("faregate.app")


async def trim(ledger: Ledger, audit_log: AuditLog, server: ServerSettings, *, now_ms: int) -> None:
    """Drop records and audit entries older than `keep_log`, unless one of `keep_log_for` has not read the former.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    before_ms = now_ms - round(server.keep_log_seconds * 1000)
    read_ms = await ledger.readers().read_until(server.keep_log_for) if server.keep_log_for else before_ms
    if read_ms < before_ms:
        log.warning("records older than keep_log stay until they are read", keep_log_for=server.keep_log_for)
    trimmed = await ledger.trim(before_ms=min(before_ms, read_ms))
    await audit_log.forget(before_ms=before_ms)
    if trimmed:
        log.info("the ledger's log was trimmed", entries=trimmed)
