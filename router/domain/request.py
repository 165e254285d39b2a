"""The client's body, read once: the few fields that routing and the hold need; the rest stays bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

import msgspec

from policies.types import NOTHING, TEXT_ONLY
from router.domain.extras import PAID_EXTRAS, Extras, hosted_tool, lives_long, long_cached, read_extras
from router.domain.labels import MAX_LABEL_LENGTH, check_tags, invalid, joined_tags, read_deadline, read_max_cost
from router.domain.shape import InputShape, depth_exceeds, opens_few, shape_of_input, shape_of_messages
from router.errors import INVALID_JSON, RouterError
from router.snapshot import Deployment

Operation = Literal["chat", "completions", "embeddings"]

MAX_JSON_DEPTH: Final = 64
MAX_OUTPUT_CAP: Final = 10_000_000
MAX_CHOICES: Final = 128
MAX_OPTION_BYTES: Final = 64 * 1024
"""Of one member that is read whole: metadata, user, provider, stream_options."""

Fields = dict[str, msgspec.Raw]

INPUTS: Final[Mapping[str, str]] = {"chat": "messages", "completions": "prompt", "embeddings": "input"}
"""The member that holds the input, by operation."""
_OTHER_CAPS: Final = frozenset({"max_completion_tokens", "n_predict"})
"""Names of the cap on output beside `max_tokens`. llama.cpp lets `n_predict` win over the others (tried with a server of 2026-10)."""
_OTHER_CAP: Final = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_FEATURES: Final = frozenset(
    {"n", "best_of", "tools", "functions", "response_format", "reasoning_effort", "reasoning", "thinking", "cache_control"}
)
_ABOUT_ITSELF: Final = frozenset({"user", "safety_identifier", "metadata", "faregate", "provider"})
_OTHER_MODELS: Final = frozenset({"models", "plugins", "preset", "route"})
"""With these OpenRouter calls a model of the client's choice, or adds calls of its own (its API reference, read 2026-11)."""
_only_common: Final = (_OTHER_CAPS | _FEATURES | _ABOUT_ITSELF | _OTHER_MODELS | PAID_EXTRAS).isdisjoint
_READ: Final = (
    frozenset({"model", "stream", "stream_options", "max_tokens", *INPUTS.values()})
    | _OTHER_CAPS
    | _FEATURES
    | _ABOUT_ITSELF
    | _OTHER_MODELS
    | PAID_EXTRAS
)
_USUAL: Final = _READ | {
    *("temperature", "top_p", "top_k", "stop", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs"),
    *("seed", "tool_choice", "parallel_tool_calls", "function_call", "store", "modalities", "audio", "prediction"),
    *("prompt_cache_key", "verbosity", "suffix", "echo", "dimensions", "encoding_format"),
}
_OWN_TOOLS: Final = frozenset({"", "function", "custom"})
"""Kinds of tools that the client runs itself."""
_TRUE: Final = msgspec.Raw(b"true")
_FALSE: Final = msgspec.Raw(b"false")
_NOTHING: Final = (b"null", b"[]")

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_str = msgspec.json.Decoder(str).decode
_decode_cap: Final[Callable[[msgspec.Raw], int]] = msgspec.json.Decoder(Annotated[int, msgspec.Meta(ge=1, le=MAX_OUTPUT_CAP)]).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.encode


class _Tool(msgspec.Struct):
    type: str = ""
    cache_control: msgspec.Raw = msgspec.Raw(b"null")
    function: msgspec.Raw = msgspec.Raw(b"null")


_NULL: Final = msgspec.Raw(b"null")
_decode_tools: Final = msgspec.json.Decoder(list[_Tool]).decode
_decode_tool: Final = msgspec.json.Decoder(_Tool).decode


class OwnOptions(msgspec.Struct, forbid_unknown_fields=True):
    """The body object `faregate`: what one request may ask of the proxy. It can only tighten policy."""

    use: list[str] | str | None = None
    """Only these deployments or models."""
    max_cost_usd: float | str | None = None
    deadline_ms: float | None = None
    """Time for the whole answer."""
    tags: dict[str, str] = {}
    session: str | None = None
    explain: bool = False
    """The answer says in a header why it went where it went."""


class ParsedRequest(msgspec.Struct, gc=False):
    """What was read of one request."""

    operation: Operation
    model: str
    fields: Fields
    """Every top-level member as it was sent, `faregate` taken out."""
    shape: InputShape
    stream: bool = False
    wants_usage: bool = False
    """The client itself asked for a usage chunk at the end of a stream."""
    output_cap: int | None = None
    """Per choice; None if the client set none. 0 scores a prompt without an answer."""
    cap_field: str = ""
    """The one member that holds `output_cap`; empty if none or several do."""
    choices: int = 1
    tools: bool = False
    json_schema: bool = False
    reasoning: bool = False
    """The request asks for reasoning, which a stream does not show."""
    user: str = ""
    session: str = ""
    tags: Mapping[str, str] = NOTHING
    steers: bool = False
    """Whether there is an object `provider`, from which the next ones come."""
    only: frozenset[str] | None = None
    ignore: frozenset[str] = frozenset()
    order: tuple[str, ...] = ()
    sort: Literal["", "price", "latency", "throughput"] = ""
    most_input_nusd: int | None = None
    """Dearest price of a million input tokens."""
    most_output_nusd: int | None = None
    """The same of output tokens."""
    max_cost_nusd: int | None = None
    deadline_ms: float | None = None
    explain: bool = False
    extras: Extras | None = None
    """What it may buy beside tokens, or at other rates; None: nothing."""
    labelled: bool = False
    """Whether any of user, session, tags, only, ignore, order, sort, the dearest prices and max_cost_nusd may be set."""
    common: bool = False
    """Whether it is one chat of texts that says nothing but how long its answer may be and whether it is to be streamed."""

    @property
    def modalities(self) -> frozenset[str]:
        return self.shape.modalities

    @property
    def input_tokens_bound(self) -> int:
        return self.shape.tokens_bound


def parse_request(body: bytes, operation: Operation) -> ParsedRequest:
    """Read and check a request body.

    Raises:
        RouterError: 400; the message names the field, what it must be, and its limit.
    """
    fields = _read_object(body)
    try:
        model, raw_input = _decode_str(fields["model"]), fields[INPUTS[operation]]
    except (KeyError, msgspec.MsgspecError):
        raise _lacking(fields, INPUTS[operation]) from None
    try:
        # Every other member may be input to some provider: all bytes count.
        shape = shape_of_messages(raw_input, body) if operation == "chat" else shape_of_input(raw_input, body)
    except (msgspec.MsgspecError, ValueError) as exc:
        wanted = "a list of objects with at least one element" if operation == "chat" else "a string or a list of strings or tokens"
        name = INPUTS[operation]
        raise invalid(f"'{name}' must be {wanted}: {exc}", name) from None
    parsed = ParsedRequest(operation, model, fields, shape)
    if operation != "embeddings":
        # A chat has one prompt.
        parsed.choices = shape.prompts
        _read_output(fields, parsed)
    if not _only_common(fields):
        _read_rare(fields, parsed)
    elif operation == "chat":
        parsed.common = shape.modalities is TEXT_ONLY
    if shape.long_cache:
        parsed.extras = long_cached(parsed.extras)
    if not _USUAL.issuperset(fields):
        _refuse_look_alikes(fields)
    return parsed


def _lacking(fields: Fields, name: str) -> RouterError:
    """What is wrong with a body that has no model that can be read, or no input."""
    if "model" not in fields:
        return invalid("You must provide a model parameter: the name of a route or model. GET /v1/models lists them.", "model")
    try:
        _decode_str(fields["model"])
    except msgspec.MsgspecError:
        return invalid("'model' must be a string.", "model")
    return invalid(f"'{name}' is missing.", name)


def _read_object(body: bytes) -> Fields:
    if not body.isascii():
        _check_utf8(body)
    if not opens_few(body, MAX_JSON_DEPTH):
        _check_depth(body)
    try:
        return _decode_fields(body)
    except msgspec.ValidationError:
        raise RouterError(INVALID_JSON, "The request body must be a JSON object.") from None
    except (msgspec.DecodeError, RecursionError) as exc:
        said = f"is not valid JSON: {exc}" if body else "is empty; a JSON object is needed."
        raise RouterError(INVALID_JSON, f"The request body {said}") from None


def _check_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as exc:
        raise RouterError(INVALID_JSON, f"The request body is not UTF-8 at byte {exc.start}.") from None


def _check_depth(body: bytes) -> None:
    try:
        if depth_exceeds(body, MAX_JSON_DEPTH):
            raise RouterError(INVALID_JSON, f"The request body nests deeper than {MAX_JSON_DEPTH} levels.")
    except ValueError as exc:
        raise RouterError(INVALID_JSON, f"The request body cannot be read: {exc}.") from None


def _read_output(fields: Fields, parsed: ParsedRequest) -> None:
    """The members that almost every request has; `_read_rare` reads the others."""
    raw = fields.get("max_tokens")
    if raw is not None:
        parsed.cap_field = "max_tokens"
        try:
            parsed.output_cap = _decode_cap(raw)
        except msgspec.MsgspecError:
            parsed.output_cap = _rare_cap(raw, "max_tokens")
    raw = fields.get("stream")
    if raw is not None and raw != _FALSE:
        parsed.stream = _flag(raw, "stream")
        if parsed.stream and "stream_options" in fields:
            parsed.wants_usage = _wants_usage(fields["stream_options"])


def _rare_cap(raw: msgspec.Raw, name: str) -> int | None:
    """A cap that may be null or 0; anything else is refused with a reason."""
    return _whole(raw, name, MAX_OUTPUT_CAP, least=0)


def _read_rare(fields: Fields, parsed: ParsedRequest) -> None:
    if not _OTHER_MODELS.isdisjoint(fields):
        _refuse_other_models(fields)
    if parsed.operation != "embeddings" and not _OTHER_CAPS.isdisjoint(fields):
        _read_other_caps(fields, parsed)
    if not PAID_EXTRAS.isdisjoint(fields):
        parsed.extras = read_extras({name: _any(fields[name], name) for name in PAID_EXTRAS.intersection(fields)})
    if parsed.operation != "embeddings" and not _FEATURES.isdisjoint(fields):
        _read_features(fields, parsed)
    if not _ABOUT_ITSELF.isdisjoint(fields):
        parsed.labelled = True
        _read_identity(fields, parsed)
        if "faregate" in fields:
            _read_own(fields.pop("faregate"), parsed)
        if "provider" in fields:
            _read_provider_preferences(fields["provider"], parsed)


def _refuse_other_models(fields: Fields) -> None:
    """Budgets hold money for the models of the route: nothing in a request may have the provider call another."""
    for name in sorted(_OTHER_MODELS.intersection(fields)):
        if bytes(fields[name]) not in _NOTHING:
            raise invalid(f"'{name}' is not passed on: it can have the provider call other models than the route's. Leave it out.", name)


def _refuse_look_alikes(fields: Fields) -> None:
    """Servers in Go match names of members without regard to case: `MODEL` would be obeyed there, and was not read here."""
    for name in fields.keys() - _USUAL:
        meant = name.casefold()
        if meant in _READ:
            raise invalid(f"'{name[:64]}' is not a member of a request; write '{meant}'.", name[:64])


def unpriced(name: str) -> RouterError:
    """A 400 for a member that asks for something whose price nobody knows."""
    return invalid(f"'{name}' asks for what is billed at a price that is not known, so no budget can hold it. Leave it out.", name)


def _read_other_caps(fields: Fields, parsed: ParsedRequest) -> None:
    """The lowest cap counts: of several the strictest was meant, or is safe to assume."""
    caps = {name: _rare_cap(raw, name) for name, raw in fields.items() if name == "max_tokens" or name in _OTHER_CAPS}
    parsed.output_cap = min((cap for cap in caps.values() if cap is not None), default=None)
    parsed.cap_field = next(iter(caps)) if len(caps) == 1 else ""


def _read_features(fields: Fields, parsed: ParsedRequest) -> None:
    choices, hosted, cached = 1, False, False
    for name in filter(_FEATURES.__contains__, fields):
        raw = fields[name]
        if name == "n":
            choices = max(choices, _whole(raw, name, MAX_CHOICES) or 1)
        elif name == "best_of":
            choices = max(choices, _whole(raw, name, MAX_CHOICES, least=0) or 1)
        elif name in ("tools", "functions"):
            if bytes(raw) not in _NOTHING:
                parsed.tools = True
                hosted = hosted or (name == "tools" and not _are_own(raw))
                cached = cached or _cached_long(raw)
        elif name == "cache_control":
            cached = cached or lives_long(_any(raw, name))
        elif name == "response_format":
            parsed.json_schema = b'"json_schema"' in bytes(raw)
        else:
            parsed.reasoning = True
    # A completion answers each of its prompts so often.
    parsed.choices *= choices
    if cached:
        parsed.extras = long_cached(parsed.extras)
    if hosted:
        parsed.extras = hosted_tool(parsed.extras)


def _are_own(tools: msgspec.Raw) -> bool:
    """Whether the client runs all these tools itself. What cannot be read is the provider's to refuse."""
    try:
        return _OWN_TOOLS.issuperset([tool.type for tool in _decode_tools(tools)])
    except msgspec.MsgspecError:
        return False


def _cached_long(tools: msgspec.Raw) -> bool:
    """Whether a tool asks for a prompt cache that lives longer than usual: in itself, or in its function as some clients write it."""
    raw = bytes(tools)
    if b'"cache_control"' not in raw:
        return False
    try:
        found = [each for tool in _decode_tools(raw) for each in (tool.cache_control, _decode_tool_cache(tool.function))]
        return any(lives_long(_decode_any(each)) for each in found)
    except msgspec.MsgspecError:
        return True


def _decode_tool_cache(function: msgspec.Raw) -> msgspec.Raw:
    return _decode_tool(function).cache_control if bytes(function)[:1] == b"{" else _NULL


def _flag(raw: msgspec.Raw, name: str) -> bool:
    if raw == _TRUE:
        return True
    if bytes(raw) in (b"false", b"null"):
        return False
    raise invalid(f"'{name}' must be true or false.", name)


def _whole(raw: msgspec.Raw, name: str, most: int, *, least: int = 1) -> int | None:
    text = bytes(raw)
    if text == b"null":
        return None
    if not text.isdigit() or len(text) > 18:
        raise invalid(f"'{name}' must be a whole number from {least} to {most:,}.", name)
    value = int(text)
    if not least <= value <= most:
        raise invalid(f"'{name}' must be a whole number from {least} to {most:,}, not {value}.", name)
    return value


def _wants_usage(raw: msgspec.Raw) -> bool:
    options = _any(raw, "stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise invalid("'stream_options' must be an object.", "stream_options")
    return options.get("include_usage") is True


def _any(raw: msgspec.Raw, name: str) -> Any:
    if len(raw) > MAX_OPTION_BYTES:
        raise invalid(f"'{name}' must not be longer than {MAX_OPTION_BYTES:,} bytes.", name)
    try:
        return _decode_any(raw)
    except msgspec.MsgspecError as exc:
        raise invalid(f"'{name}' cannot be read: {exc}", name) from None


def _read_identity(fields: Fields, parsed: ParsedRequest) -> None:
    raw = fields.get("safety_identifier") or fields.get("user")
    if raw is not None:
        value = _any(raw, "user")
        if isinstance(value, str):
            parsed.user = value[:MAX_LABEL_LENGTH]
    raw = fields.get("metadata")
    if raw is None:
        return
    metadata = _any(raw, "metadata")
    if not isinstance(metadata, dict):
        return
    session = metadata.get("session_id")
    if isinstance(session, str):
        parsed.session = session[:MAX_LABEL_LENGTH]
    tags = metadata.get("tags")
    # Some clients send a list: their own, and passed on as it is.
    if isinstance(tags, dict):
        parsed.tags = check_tags(tags, "metadata.tags")


def _read_own(raw: msgspec.Raw, parsed: ParsedRequest) -> None:
    try:
        own = msgspec.json.decode(raw, type=OwnOptions)
    except msgspec.MsgspecError as exc:
        known = ", ".join(OwnOptions.__struct_fields__)
        raise invalid(f"'faregate' cannot be read: {exc}. It takes {known}.", "faregate") from None
    if own.tags:
        parsed.tags = joined_tags(parsed.tags, check_tags(own.tags, "faregate.tags"), "faregate.tags")
    if own.session:
        parsed.session = own.session[:MAX_LABEL_LENGTH]
    if own.use is not None:
        parsed.only = frozenset([own.use] if isinstance(own.use, str) else own.use)
    if own.max_cost_usd is not None:
        parsed.max_cost_nusd = read_max_cost(own.max_cost_usd, "faregate.max_cost_usd")
    if own.deadline_ms is not None:
        parsed.deadline_ms = read_deadline(own.deadline_ms, "faregate.deadline_ms")
    parsed.explain = own.explain


def _read_provider_preferences(raw: msgspec.Raw, parsed: ParsedRequest) -> None:
    """OpenRouter's `provider` object: `only`, `ignore`, `order`, `sort`, `max_price`. Passed on to the provider too.

    Other members, and other values of `sort`, are left to the provider.
    """
    wishes = _any(raw, "provider")
    if not isinstance(wishes, dict):
        return
    parsed.steers = True
    only = _names(wishes.get("only"))
    if only:
        parsed.only = frozenset(only) if parsed.only is None else parsed.only & frozenset(only)
    parsed.ignore = frozenset(_names(wishes.get("ignore")))
    parsed.order = _names(wishes.get("order"))
    sort = wishes.get("sort")
    if sort in ("price", "latency", "throughput"):
        parsed.sort = sort
    most = wishes.get("max_price")
    if isinstance(most, dict):
        parsed.most_input_nusd = _price(most.get("prompt"), "provider.max_price.prompt")
        parsed.most_output_nusd = _price(most.get("completion"), "provider.max_price.completion")


def _price(value: object, name: str) -> int | None:
    """USD per million tokens, as a number or in quotes. Raises `RouterError` 400."""
    if value is None or (isinstance(value, (str, int, float)) and not isinstance(value, bool)):
        return None if value is None else read_max_cost(value, name)
    raise invalid(f"'{name}' must be a number: USD per million tokens.", name)


def _names(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def upstream_body(parsed: ParsedRequest, deployment: Deployment, output_cap: int | None) -> bytes:
    """The body for a deployment: the client's members in their order and byte for byte, but for the model
    name, the output cap that the hold assumes, and the wish for a usage chunk.
    """
    quirks = deployment.provider.quirks
    fields = {**parsed.fields, "model": deployment.model_json}
    if output_cap is not None:
        cap_field = quirks.output_cap_field if parsed.operation == "chat" else "max_tokens"
        if cap_field != parsed.cap_field or output_cap != parsed.output_cap:
            _write_cap(fields, cap_field, output_cap)
    if "provider" in fields and deployment.provider.resells:
        fields["provider"] = _bounded_host(fields["provider"], deployment, parsed)
    if parsed.stream and not parsed.wants_usage and quirks.stream_usage:
        options = _any(fields["stream_options"], "stream_options") if "stream_options" in fields else None
        fields["stream_options"] = msgspec.Raw(_encode({**(options or {}), "include_usage": True}))
    return _encode(fields)


def _bounded_host(raw: msgspec.Raw, deployment: Deployment, parsed: ParsedRequest) -> msgspec.Raw:
    """The client may steer which host serves the model, but to none that is dearer than what the hold assumes.

    OpenRouter's `max_price` is in USD per million tokens, and per request (its provider routing page, read 2026-11).
    """
    wishes, price = _any(raw, "provider"), deployment.price
    if not isinstance(wishes, dict) or price is None:
        return raw
    known = {"prompt": price.rates.input, "completion": price.rates.output, "request": price.per_request_nusd}
    asked = wishes.get("max_price")
    most = {**asked} if isinstance(asked, dict) else {}
    for name, nusd in known.items():
        usd = nusd / 10**9
        # In quotes it is a limit, too.
        read = {"prompt": parsed.most_input_nusd, "completion": parsed.most_output_nusd}.get(name)
        told = most.get(name) if read is None else read / 10**9
        most[name] = min(told, usd) if isinstance(told, int | float) and not isinstance(told, bool) else usd
    return msgspec.Raw(_encode({**wishes, "max_price": most}))


def _write_cap(fields: Fields, cap_field: str, output_cap: int) -> None:
    """Under the name that the provider obeys: a cap that it does not know would bound nothing."""
    other = _OTHER_CAP[cap_field]
    if other in fields:
        del fields[other]
    cap = fields[cap_field] = msgspec.Raw(b"%d" % output_cap)
    if "n_predict" in fields:
        fields["n_predict"] = cap
