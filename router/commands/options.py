"""Options that several verbs have, spelled and explained in one place."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import typer

_CONFIG = ("--config", "-c")

Config = Annotated[
    str | None, typer.Option(*_CONFIG, help="Configuration file. Default: $FAREGATE_CONFIG, else what is found in the environment.")
]
"""Of verbs that decide by the configuration."""
Books = Annotated[str | None, typer.Option(*_CONFIG, help="Configuration file whose `server.store` is read. Default: $FAREGATE_CONFIG.")]
"""Of verbs that only look for the ledger in it."""
Names = Annotated[
    str | None,
    typer.Option(
        *_CONFIG, help="Configuration file in which team and models are looked up, and `server.store` is read. Default: $FAREGATE_CONFIG."
    ),
]
"""Of verbs that take names of a configuration."""
Store = Annotated[str | None, typer.Option(help="Address of the ledger; default: as `serve` chooses it.")]
File = Annotated[str | None, typer.Argument(help="Configuration file; the same as --config.", show_default=False)]
"""Of verbs that have nothing else to be told."""


def word(option: str, kind: Any, help: str) -> Any:
    """An option that takes one of the words of a `Literal`: another one is refused with a hint."""
    known: tuple[str, ...] = get_args(kind)

    def read(text: str) -> str:
        if text not in known:
            # Needed for mistakes only.
            from router.settings.findings import one_of

            raise typer.BadParameter(f'there is no "{text}"{one_of(text, known)}', param_hint=option)
        return text

    return typer.Option(option, help=help, parser=read, metavar=f"<{'|'.join(known)}>")


def one_file(file: str | None, config: str | None) -> str | None:
    """The configuration that was named, whichever way.

    Raises:
        typer.BadParameter: two different ones were.
    """
    if file is not None and config is not None and file != config:
        raise typer.BadParameter(f"{file} and --config {config} are two configurations; name one")
    return config if file is None else file
