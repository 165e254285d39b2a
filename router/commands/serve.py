"""`faregate serve`: the service."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from router.commands.options import Config, File, one_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.snapshot import Snapshot


LEVELS: Final = ("debug", "info", "warning", "error")


def command(
    file: File = None,
    config: Config = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: server.host, else 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any free one. Default: server.port, else 4000.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Processes, one per core. Default: server.workers, else 1.")] = None,
    log_level: Annotated[str, typer.Option(help="Of events: debug, info, warning, error.")] = "info",
    worker: Annotated[int | None, typer.Option(hidden=True)] = None,
    run_folder: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve a configuration file, or what is found in the environment."""
    # It asks for a reload, and would end a process that starts: it waits until it is caught.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    from router.logs import configure_logging
    from router.settings import load_snapshot

    if worker is not None and run_folder is None:
        # The supervisor gives both. Alone it is a slip, and would serve without a banner on a port that others may share.
        raise typer.BadParameter("there is no such option; did you mean --workers?", param_hint="--worker")
    if log_level.lower() not in LEVELS:
        raise typer.BadParameter(f"{log_level!r} is not one of {', '.join(LEVELS)}", param_hint="--log-level")
    config = one_file(file, config)
    configure_logging(log_level.lower(), sys.stderr)
    _require_fast_parts()
    snapshot = loaded(config, quiet=bool(worker))
    shown = host or snapshot.server.host
    if worker is None:
        _refuse_open_door(snapshot, shown)
    count = workers or snapshot.server.workers
    if count > 1 and worker is None:
        raise typer.Exit(_supervise(snapshot, shown, snapshot.server.port if port is None else port, count))
    _serve(snapshot, shown, port, worker, run_folder, load=lambda: load_snapshot(config))


def loaded(config: str | None, *, quiet: bool) -> Snapshot:
    """The file's configuration; if that has errors, the version that the service was rolled back to."""
    from router.errors import ConfigError
    from router.settings import load_snapshot

    try:
        return load_snapshot(config)
    except ConfigError as exc:
        from router.commands.in_force import rolled_back

        snapshot = rolled_back(config, exc)
        findings = str(exc)
    if not quiet:
        import structlog

        log = structlog.get_logger("faregate.serve")
        log.error("the file has errors; the version that was rolled back to is served", version=snapshot.version, findings=findings)
    return snapshot


def _require_fast_parts() -> None:
    """Without uvloop and httptools the service would be many times slower without a word."""
    from importlib.util import find_spec

    from router.errors import ConfigError

    missing = [name for name in ("uvloop", "httptools") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} missing: install Faregate again with its dependencies.")


def _refuse_open_door(snapshot: Snapshot, host: str) -> None:
    from router.errors import ConfigError
    from router.reload import is_open_door

    if not is_open_door(snapshot, host):
        return
    raise ConfigError(
        f"server: without keys, everybody who reaches {host} could spend your money. Put keys into the configuration "
        "(`faregate keys new NAME --yaml` prints an entry), listen on 127.0.0.1, or set server.allow_anonymous: true."
    )


def _serve(
    snapshot: Snapshot, host: str, port: int | None, worker: int | None, run_folder: str | None, *, load: Callable[[], Snapshot]
) -> None:
    from router.serving import RunningApp, run
    from router.startup import settle_down

    async def main() -> None:
        app = RunningApp(snapshot, host=host, port=port, worker=worker or 0, shared=worker is not None, run_folder=run_folder, load=load)
        app.catch_signals()
        async with app:
            settle_down()
            if not worker:
                greet(snapshot, app.base_url, store=app.service.store, keys=app.service.admission.required, admin=app.admin_url)
            await app.until_signal()

    run(main())


def _supervise(snapshot: Snapshot, host: str, port: int, workers: int) -> int:
    import uvloop

    from router.serving import Supervisor, listen, worker_command

    # Held open and never listened on: it keeps the port while workers come and go.
    placeholder = listen(host, port, shared=True)
    with placeholder:
        chosen = placeholder.getsockname()[1]
        command_line = [*worker_command(), "--port", str(chosen), "--workers", "1"]
        return uvloop.run(Supervisor(command_line, workers=workers, drain_seconds=snapshot.server.drain_seconds).supervise())


def greet(snapshot: Snapshot, base_url: str, *, store: str, keys: bool, admin: str = "") -> None:
    """Say what is served and how to try it."""
    from router.commands.greeting import greeting

    print(greeting(snapshot, base_url, store=store, keys=keys, admin=admin), file=sys.stderr, flush=True)
