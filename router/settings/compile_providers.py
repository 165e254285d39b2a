"""Providers: presets, endpoints and credentials."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Final
from urllib.parse import urlsplit

from router.adapters.upstream.presets import PRESETS, Preset
from router.ports import Endpoint, Timeouts
from router.settings.compile_context import Context
from router.settings.findings import Path, one_of
from router.settings.model import ProviderSettings
from router.snapshot import Provider, Quirks, Simulation

LITELLM_PREFIX: Final = "litellm/"
SIM: Final = "sim"
SIM_URL: Final = "http://127.0.0.1:0/v1"
"""Port 0: the process that serves starts the simulator and fills in its port."""
_OWN_HEADERS: Final = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding", "te", "trailer", "upgrade", "expect"}
)


def compile_providers(context: Context) -> dict[str, Provider]:
    """All providers that have no error."""
    made = ((name, _provider(context, name, given)) for name, given in context.settings.providers.items())
    return {name: provider for name, provider in made if provider is not None}


def timeouts_of(given: ProviderSettings) -> Timeouts:
    """The timeouts of a provider's calls."""
    return Timeouts(
        connect_seconds=given.timeouts.connect,
        first_byte_seconds=given.timeouts.first_byte,
        idle_seconds=given.timeouts.idle,
        total_seconds=given.timeouts.total,
    )


def _provider(context: Context, name: str, given: ProviderSettings) -> Provider | None:
    kind = given.kind or name
    path: Path = ("providers", name)
    if kind.startswith(LITELLM_PREFIX):
        return _adapted(context, name, given, kind, kind.removeprefix(LITELLM_PREFIX), None)
    preset = PRESETS.get(kind)
    if preset is None:
        if given.kind is not None:
            context.wrong((*path, "kind"), f'there is no preset "{kind}"{one_of(kind, PRESETS)}')
        else:
            hint = one_of(kind, PRESETS)
            context.wrong(path, f'"{name}" is not a well-known provider: give kind and base_url{hint}', at_key=True)
        return None
    if preset.lane == "litellm":
        return _adapted(context, name, given, kind, preset.litellm_provider or kind, preset)
    if given.options:
        context.wrong((*path, "options"), "only providers of kind litellm/... have options", at_key=True)
    base_url = given.base_url or _preset_url(context, path, kind, preset)
    if base_url is None:
        return None
    headers = _headers(context, path, given, preset)
    if headers is None:
        return None
    endpoint = _endpoint(context, name, given, base_url, headers)
    return Provider(
        name=name, kind=kind, lane="wire", endpoint=endpoint, quirks=preset.quirks, simulation=_simulation(context, path, given, kind)
    )


def _simulation(context: Context, path: Path, given: ProviderSettings, kind: str) -> Simulation:
    told = given.simulate
    if told is None:
        return Simulation()
    # Loaded only where it is needed.
    from router.sim.profiles import PROFILES

    if kind != "sim" or given.base_url is not None:
        context.wrong((*path, "simulate"), "is for providers of kind sim without base_url: this process simulates no other", at_key=True)
    for model in told.down:
        if model not in PROFILES:
            context.wrong((*path, "simulate", "down"), f'there is no simulated model "{model}"{one_of(model, PROFILES)}')
    return Simulation(seed=told.seed, speed=told.speed, faults=told.faults, down=frozenset(told.down))


_OF_OUR_CLIENT: Final = ("proxy", "http2", "max_connections", "ca_file", "verify")
"""What is said of connections that litellm does not make."""


def _adapted(context: Context, name: str, given: ProviderSettings, kind: str, adapter: str, preset: Preset | None) -> Provider | None:
    path: Path = ("providers", name)
    if not adapter:
        context.wrong((*path, "kind"), "name the provider: litellm/bedrock, litellm/cohere, ...")
        return None
    options = {key: secret.reveal() for key, secret in given.options.items()}
    key = _api_key(context, path, given, preset)
    if key is None and preset is not None and preset.key_env is not None:
        return None
    if key:
        options["api_key"] = key
    if given.base_url is not None:
        options["api_base"] = given.base_url
    if given.headers:
        context.wrong((*path, "headers"), "the adapter lane sends its own headers; use options", at_key=True)
    for field in _OF_OUR_CLIENT:
        if getattr(given, field) != type(given).model_fields[field].default:
            # It would be a call past the proxy, or to whoever shows any certificate, that nobody asked for.
            context.wrong(
                (*path, field), "is not for providers that are called through litellm, which has connections of its own", at_key=True
            )
    endpoint = _endpoint(context, name, given, given.base_url or "https://litellm.invalid", ())
    quirks = Quirks() if preset is None else preset.quirks
    return Provider(
        name=name, kind=kind, lane="litellm", endpoint=endpoint, quirks=quirks, litellm_provider=adapter, litellm_options=options
    )


def _api_key(context: Context, path: Path, given: ProviderSettings, preset: Preset | None) -> str | None:
    """The credential; an empty text if none is needed; None if it is missing, which has been noted."""
    if given.api_key is not None:
        return given.api_key.reveal()
    variable = None if preset is None else preset.key_env
    if variable is None:
        return ""
    found = context.environ.get(variable)
    if found:
        return found
    # A server of one's own that speaks a known dialect may need no key, or another header.
    if given.base_url is not None or given.headers:
        return ""
    context.wrong(path, f"needs a key: environment variable {variable} is not set; set it, or write api_key", at_key=True)
    return None


def _headers(context: Context, path: Path, given: ProviderSettings, preset: Preset) -> tuple[tuple[str, str], ...] | None:
    key = _api_key(context, path, given, preset)
    if key is None:
        return None
    headers: dict[str, str] = dict(preset.auth_headers(key))
    for header, secret in given.headers.items():
        if header in _OWN_HEADERS:
            context.wrong((*path, "headers", header), "this header is set by the proxy")
        headers[header] = secret.reveal()
    for header, value in headers.items():
        if not value.isascii() or not value.isprintable():
            where: Path = (*path, "headers", header) if header in given.headers else (*path, "api_key")
            context.wrong(where, "holds characters that a header cannot carry (the value is not shown)")
    return tuple(headers.items())


def _preset_url(context: Context, path: Path, kind: str, preset: Preset) -> str | None:
    """The preset's address; None if it is missing, which has been noted."""
    region = context.environ.get(preset.region_env) if preset.region_env else None
    url = preset.url(region or None)
    if url is not None:
        return url
    if kind == SIM:
        return SIM_URL
    if preset.region_env is not None:
        context.wrong(path, f"base_url is missing; write it, or set the region in environment variable {preset.region_env}", at_key=True)
    else:
        context.wrong(path, f"base_url is missing: {kind} has no address of its own", at_key=True)
    return None


def _endpoint(context: Context, name: str, given: ProviderSettings, base_url: str, headers: tuple[tuple[str, str], ...]) -> Endpoint:
    parts = urlsplit(base_url)
    path: Path = ("providers", name)
    secure = parts.scheme == "https"
    if given.http2 and not secure:
        context.wrong((*path, "http2"), "HTTP/2 needs an https base_url")
    if given.ca_file is not None and not FilePath(given.ca_file).is_file():
        context.wrong((*path, "ca_file"), f'there is no file "{given.ca_file}"')
    if not given.verify:
        context.doubtful((*path, "verify"), "the certificate is not checked: whoever is on the way can read the key")
    return Endpoint(
        name=name,
        scheme="https" if secure else "http",
        host=parts.hostname or "",
        port=parts.port if parts.port is not None else (443 if secure else 80),
        base_path=parts.path.rstrip("/"),
        headers=headers,
        max_connections=given.max_connections,
        http2=given.http2,
        proxy=given.proxy,
        ca_file=given.ca_file,
        verify=given.verify,
    )
