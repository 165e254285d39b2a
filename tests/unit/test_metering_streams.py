"""Event streams: what is relayed, and what is booked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.domain.metering import StreamMeter
from router.domain.sse import DONE, StreamHead, clean_cut_events, error_event, event_data, split_events
from router.domain.stream_metering import MAX_JSON_BYTES
from router.domain.usage import Usage

USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
HEAD = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1_790_000_000, "model": "gpt-served"}


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({**HEAD, **fields}, separators=(",", ":")).encode() + b"\n\n"


def delta(index: int = 0, *, finish: str | None = None, usage: Any = ..., **fields: Any) -> bytes:
    more = {} if usage is ... else {"usage": usage}
    return event(choices=[{"index": index, "delta": fields, "finish_reason": finish}], **more)


def usage_event(usage: Any = None, **more: Any) -> bytes:
    return event(choices=[], usage=usage or USAGE, **more)


ROLE = delta(role="assistant", content="")
WORDS = [delta(content=word) for word in ("one", " two", " three")]
STOP = delta(finish="stop")
PLAIN = [ROLE, *WORDS, STOP, usage_event(), DONE]


def meter(*, strip: bool = False, cap: int = 1000, **more: Any) -> StreamMeter:
    return StreamMeter(strip_usage=strip, input_likely=20, input_bound=100, output_cap_total=cap, **more)


def relay(stream: StreamMeter, chunks: list[bytes]) -> bytes:
    return b"".join([stream.feed(chunk) for chunk in chunks]) + stream.flush()


def booked(chunks: list[bytes], *, complete: bool = True, **more: Any) -> Usage:
    stream = meter(**more)
    relay(stream, chunks)
    return stream.finish(complete=complete).usage


def exact(input_tokens: int, output_tokens: int) -> Usage:
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens, evidence="exact")


def outcome(usage: Usage) -> tuple[int, int, str, str | None]:
    return usage.input_tokens, usage.output_tokens, usage.evidence, usage.doubt


def test_a_whole_stream_passes_as_it_is_and_its_usage_is_booked() -> None:
    """The client asked for usage: nothing is touched, not even copied."""
    stream = meter()
    assert all(stream.feed(chunk) is chunk for chunk in PLAIN[2:]) or stream.feed(b"") == b""
    stream = meter()
    assert relay(stream, PLAIN) == b"".join(PLAIN)
    metered = stream.finish(complete=True)
    assert metered.usage == exact(12, 3)
    assert (metered.served_model, metered.finish_reason, metered.over_cap) == ("gpt-served", "stop", False)
    assert stream.finish(complete=False) is metered


def test_the_usage_event_that_the_client_did_not_ask_for_is_left_out() -> None:
    """What we add is not shown; it is booked all the same."""
    stream = meter(strip=True)
    assert relay(stream, PLAIN) == b"".join([ROLE, *WORDS, STOP, DONE])
    assert stream.finish(complete=True).usage == exact(12, 3)


def test_only_an_event_of_nothing_but_usage_is_left_out() -> None:
    """Null usage, usage beside text, the filter results of Azure, a usage error: all of that is the client's."""
    kept = [
        event(choices=[], prompt_filter_results=[{}]),
        ROLE,
        *[delta(content="x", usage=None) for _ in range(3)],
        delta(content="y", usage=USAGE),
        event(choices=[], usage="12"),
        event(choices=[], usage=USAGE, error={"message": "no"}),
        b'data: {"usage":{"a":1\n\n',
        b'data: {"x":{"usage":{}}}\n\n',
        b': comment about "usage":{}\n\n',
        DONE,
    ]
    assert relay(meter(strip=True), kept) == b"".join(kept)


def test_a_usage_event_without_choices_is_left_out() -> None:
    """Some servers leave the empty list away."""
    last = b'data: {"usage": {"prompt_tokens": 12, "completion_tokens": 3}}\n\n'
    assert relay(meter(strip=True), [ROLE, *WORDS, STOP + last, DONE]) == b"".join([ROLE, *WORDS, STOP, DONE])


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 50, 1000, 100_000])
@pytest.mark.parametrize("strip", [True, False])
def test_neither_framing_nor_chunking_matters(newline: bytes, size: int, strip: bool) -> None:
    """TCP cuts streams anywhere; all three line ends are in the standard."""
    data = b"".join([b": ping\n\n", *PLAIN]).replace(b"data: ", b"data:").replace(b"\n", newline)
    wanted = data.replace(usage_event().replace(b"data: ", b"data:").replace(b"\n", newline), b"") if strip else data
    stream = meter(strip=strip)
    assert relay(stream, [data[at : at + size] for at in range(0, len(data), size)]) == wanted
    assert stream.finish(complete=True).usage == exact(12, 3)


def test_a_stream_without_usage_is_counted_by_its_events_and_bytes() -> None:
    """One token an event, or four bytes a token if that is more; the events of role and end carry none."""
    assert outcome(booked([ROLE, *WORDS, STOP, DONE])) == (20, 4, "estimated", "missing")
    ten = [delta(content="a") for _ in range(10)]
    assert outcome(booked([ROLE, *ten, STOP, DONE], cap=10)) == (20, 10, "estimated", "missing")
    long = [delta(content="a" * 400)]
    assert booked([ROLE, *long, STOP, DONE]).output_tokens in range(100, 125)


def test_a_stream_without_a_role_event_loses_no_token() -> None:
    """Only events that carry no text are left out of the count."""
    many = [delta(content="a") for _ in range(30)]
    assert booked([*many, DONE], cap=30).output_tokens == 30


def test_tool_calls_are_counted_by_their_arguments() -> None:
    """Their frame is larger than the text in it."""
    first = delta(tool_calls=[{"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}])
    rest = [delta(tool_calls=[{"index": 0, "function": {"arguments": piece}}]) for piece in ('{"a', '":"', "b", '"}')]
    counted = booked([ROLE, first, *rest, STOP, DONE]).output_tokens
    assert 5 <= counted <= 60


def test_completions_stream_text() -> None:
    """The old endpoint has `text` in place of a delta."""
    chunks = [event(choices=[{"index": 0, "text": "abcd", "finish_reason": None}]) for _ in range(20)]
    assert booked([*chunks, DONE], cap=20).output_tokens == 20


@pytest.mark.parametrize(
    ("usage", "doubt"),
    [
        ({"prompt_tokens": 12, "completion_tokens": 0}, "zero_with_text"),
        ({"prompt_tokens": 12, "completion_tokens": -3}, "negative"),
        ({"prompt_tokens": 12, "completion_tokens": "3"}, "not_a_number"),
        ({"prompt_tokens": 12, "completion_tokens": 10**12}, "absurd"),
        ("many", "not_a_number"),
    ],
)
def test_a_usage_that_cannot_be_believed_is_replaced(usage: Any, doubt: str) -> None:
    """As for JSON."""
    answer = booked([ROLE, *WORDS, STOP, usage_event(usage), DONE])
    assert answer.output_tokens >= 3
    assert (answer.evidence, answer.doubt) == ("estimated", doubt)


def test_usage_in_every_event_is_a_running_total() -> None:
    """The last one holds; added up it would be many times too much."""
    running = [delta(content="x", usage={"prompt_tokens": 12, "completion_tokens": n}) for n in range(1, 30)]
    assert booked([ROLE, *running, delta(finish="stop", usage={"prompt_tokens": 12, "completion_tokens": 29}), DONE]) == exact(12, 29)


def test_usage_sent_twice_is_booked_once() -> None:
    """With the end and again on its own."""
    assert booked([ROLE, *WORDS, delta(finish="stop", usage=USAGE), usage_event(), DONE]) == exact(12, 3)


def test_a_total_that_shrinks_is_doubted() -> None:
    """The larger of two counts is booked."""
    answer = booked([ROLE, *WORDS, usage_event(), usage_event({"prompt_tokens": 12, "completion_tokens": 1}), DONE])
    assert outcome(answer) == (12, 3, "estimated", "twice")
    answer = booked([ROLE, *WORDS, usage_event(), usage_event({"prompt_tokens": 12, "completion_tokens": -1}), DONE])
    assert outcome(answer) == (12, 3, "estimated", "negative")


def test_usage_before_most_of_the_text_is_a_lower_bound() -> None:
    """Some gateways report at the start."""
    many = [delta(content="abcd") for _ in range(6)]
    answer = booked([ROLE, usage_event({"prompt_tokens": 12, "completion_tokens": 1}), *many, DONE])
    assert (answer.input_tokens, answer.doubt) == (12, "stale")
    assert answer.output_tokens >= 6


def test_usage_is_found_where_groq_and_moonshot_put_it() -> None:
    """In `x_groq`, and inside the choice."""
    assert booked(
        [ROLE, *WORDS, event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], x_groq={"usage": USAGE}), DONE]
    ) == exact(12, 3)
    inside = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}])
    assert booked([ROLE, *WORDS, inside, DONE]) == exact(12, 3)
    odd = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], x_groq=[{"usage": USAGE}])
    assert booked([ROLE, *WORDS, odd, DONE]).doubt == "missing"


def test_a_broken_stream_books_what_was_relayed_as_a_lower_bound() -> None:
    """The upstream died, or the client left: the prompt and the text so far were paid for."""
    assert outcome(booked([ROLE, *WORDS], complete=False)) == (20, 4, "partial", "truncated")
    running = [delta(content="x", usage={"prompt_tokens": 12, "completion_tokens": 50})]
    assert outcome(booked([ROLE, *running], complete=False)) == (12, 50, "partial", "truncated")
    assert outcome(booked([ROLE, *WORDS], complete=True)) == (20, 4, "partial", "truncated")


def test_a_client_that_leaves_after_the_usage_changes_nothing() -> None:
    """The provider's count is complete by then."""
    assert booked(PLAIN[:-1], complete=False) == exact(12, 3)


def test_an_error_event_makes_the_count_partial() -> None:
    """Half an answer, then an error: never an exact bill."""
    stream = meter()
    relay(stream, [ROLE, *WORDS, error_event({"message": "overloaded"})])
    assert stream.error_seen
    assert not stream.ended
    assert outcome(stream.finish(complete=True).usage) == (20, 4, "partial", "error_event")


def test_an_error_before_any_text_has_no_output() -> None:
    """Nothing was written by a model."""
    assert booked([error_event({"message": "overloaded"})]).output_tokens == 0


def test_events_that_we_do_not_know_are_counted_by_their_bytes() -> None:
    """They were relayed; a stream of another dialect must not be free."""
    chunks = [b'data: {"delta":"abcd"}\n\n', b"data: plain\n\n"]
    assert booked([*chunks, DONE]).output_tokens >= 2
    assert booked([b": nothing but a comment\n\n", DONE]).output_tokens == 0


def test_text_under_a_field_that_we_do_not_know_counts_one_token_an_event() -> None:
    """A new kind of delta is seen by its presence."""
    assert booked([delta(musings="x") for _ in range(12)] + [DONE]).output_tokens == 12


def test_a_json_body_in_place_of_a_stream_passes_and_is_counted() -> None:
    """Some servers ignore `stream`."""
    answer = {**HEAD, "choices": [{"message": {"content": "abcdefgh"}, "finish_reason": "stop"}], "usage": USAGE}
    raw = b" \n" + json.dumps(answer).encode()
    for strip in (True, False):
        stream = meter(strip=strip)
        assert relay(stream, [raw[:1], raw[1:9], raw[9:]]) == raw
        assert stream.ended
        assert stream.finish(complete=True).usage == exact(12, 3)
    assert outcome(booked([raw[:-3]], complete=False))[2:] == ("partial", "truncated")
    assert booked([raw], complete=False) == exact(12, 3)


def test_a_huge_json_body_is_counted_by_its_size() -> None:
    """Memory stays bounded."""
    stream = meter()
    part = b"[" + b" " * (MAX_JSON_BYTES // 2)
    for _ in range(4):
        assert stream.feed(part) is part
    assert outcome(stream.finish(complete=True).usage)[2:] == ("estimated", "oversized")


def test_a_stream_of_only_blanks_books_the_prompt() -> None:
    """Nothing came."""
    for strip in (True, False):
        stream = meter(strip=strip)
        assert relay(stream, [b"", b"\n", b" "]) == b"\n "
        assert outcome(stream.finish(complete=True).usage) == (20, 0, "partial", "truncated")


@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("size", [7, 100, 10_000])
@pytest.mark.parametrize("newline", [b"\n", b"\r"])
def test_an_event_above_the_limit_passes_unseen(strip: bool, size: int, newline: bytes) -> None:
    """Memory stays bounded, the events around it are counted, and the doubt is named."""
    huge = usage_event({"prompt_tokens": 1, "completion_tokens": 1, "padding": "x" * 3000})
    data = b"".join([ROLE, *WORDS, huge, *WORDS, STOP, DONE]).replace(b"\n", newline)
    stream = meter(strip=strip, max_event_bytes=500)
    assert relay(stream, [data[at : at + size] for at in range(0, len(data), size)]) == data
    answer = stream.finish(complete=True).usage
    assert answer.doubt == "oversized"
    assert answer.output_tokens >= 6


def test_a_stream_that_ends_inside_a_huge_event_is_not_continued() -> None:
    """The client has half of it: our own events need a gap."""
    stream = meter(strip=True, max_event_bytes=50)
    relayed = stream.feed(b"data: " + b"x" * 200)
    assert relayed == b"data: " + b"x" * 200
    assert stream.gap == b"\n\n"
    assert stream.flush() == b""
    assert stream.finish(complete=False).usage.output_tokens > 0


def test_an_event_that_lacks_its_blank_line_at_the_end_is_whole() -> None:
    """Sloppy servers end after the last data line."""
    stream = meter(strip=True)
    assert relay(stream, [*PLAIN[:-1], b"data: [DONE]\n"]) == b"".join([ROLE, *WORDS, STOP, b"data: [DONE]\n"])
    assert stream.gap == b"\n\n"
    assert stream.finish(complete=True).usage == exact(12, 3)
    stream = meter(strip=True)
    assert relay(stream, [ROLE, *WORDS, STOP, usage_event()[:-2]]) == b"".join([ROLE, *WORDS, STOP])
    assert stream.finish(complete=True).usage == exact(12, 3)


def test_half_an_event_is_not_shown_to_a_client_whose_stream_we_edit() -> None:
    """The error event that follows stays readable."""
    stream = meter(strip=True)
    assert relay(stream, [ROLE, WORDS[0][:30]]) == ROLE
    assert stream.gap == b""
    stream = meter(strip=False)
    assert relay(stream, [ROLE, WORDS[0][:30]]) == ROLE + WORDS[0][:30]
    assert stream.gap == b"\n\n"
    stream.finish(complete=False)
    assert stream.gap == b"\n\n"


def test_what_was_burnt_is_known_at_any_time() -> None:
    """Budget slices need a bound that no tokenizer exceeds, and a likely count."""
    stream = meter()
    stream.feed(ROLE)
    assert (stream.content_seen, stream.output_tokens_likely) == (False, 0)
    for _ in range(100):
        stream.feed(delta(content="four"))
    assert stream.content_seen
    assert 100 <= stream.output_tokens_likely <= 120
    assert 400 <= stream.output_tokens_bound <= 450
    assert stream.events == 101


@pytest.mark.parametrize(
    "chunks", [PLAIN, [b"".join(PLAIN[:3])], [ROLE, WORDS[0][:50]], [b": ping\n\n"], [ROLE + WORDS[0] + WORDS[1][:30]]]
)
def test_a_read_can_be_weighed_before_it_is_taken(chunks: list[bytes]) -> None:
    """What is relayed must be held first, so the bound is known before the read is fed, and never too low."""
    stream = meter()
    for chunk in chunks:
        weighed, counted = stream.output_tokens_bound_with(chunk), stream.events_with(chunk)
        stream.feed(chunk)
        assert weighed >= stream.output_tokens_bound
        assert counted <= stream.events
    assert stream.output_tokens_bound_with(b"") == stream.output_tokens_bound
    whole = meter()
    assert whole.output_tokens_bound_with(b"".join(PLAIN[:4])) < 4 * len(WORDS[0]) // 2


def test_padding_against_eavesdroppers_is_not_text() -> None:
    """OpenAI pads events to hide the length of tokens; the padding differs from event to event."""
    chunks = [event(choices=[{"index": 0, "delta": {"content": "four"}}], obfuscation="x" * (n % 7)) for n in range(100)]
    stream = meter()
    relay(stream, chunks)
    assert stream.output_tokens_bound >= 400


def test_an_envelope_that_cannot_be_read_counts_as_text() -> None:
    """Too high rather than too low."""
    broken = b'data: {"choices":[{"delta":{"content":"abc"}]]\n\n'
    assert booked([broken, broken, DONE]).output_tokens >= len(broken) // 4


def test_memory_does_not_grow_with_the_stream() -> None:
    """A long stream keeps its last events only, and still counts all."""
    stream = meter()
    stream.feed(ROLE)
    for _ in range(2000):
        stream.feed(WORDS[1])
    assert len(stream._pieces) < 1000
    assert stream.events == 2001
    stream.feed(STOP + usage_event())
    assert stream.finish(complete=True).usage == exact(12, 3)


def test_the_head_is_what_events_repeat() -> None:
    """Our own last events must look like the stream's."""
    stream = meter()
    assert stream.head == StreamHead()
    stream.feed(b"data: [DONE]\n\n" + ROLE)
    assert stream.head == StreamHead(id="chatcmpl-7", created=1_790_000_000, model="gpt-served")
    odd = meter()
    odd.feed(b'data: {"id":5,"object":null,"created":"now","model":[],"choices":[]}\n\n')
    assert odd.head == StreamHead()


def test_a_cut_ends_every_open_choice() -> None:
    """`length`, usage if it was asked for, `[DONE]`: a client cannot tell it from a cap of its own."""
    stream = meter(choices=3)
    for chunk in [delta(0, content="a"), delta(1, content="b"), delta(2, content="c"), delta(1, finish="stop"), b"data: {}\n\n"]:
        stream.feed(chunk)
    assert stream.open_choices() == (0, 2)
    usage = Usage(input_tokens=5, output_tokens=7, cache_read_tokens=2, evidence="partial")
    events = split_events(clean_cut_events(stream.head, open_choices=stream.open_choices(), usage=usage))
    decoded = [json.loads(event_data(one)) for one in events[:-1]]
    assert [choice["index"] for one in decoded for choice in one["choices"]] == [0, 2]
    assert {one["id"] for one in decoded} == {"chatcmpl-7"}
    assert decoded[-1]["usage"]["total_tokens"] == 12
    assert events[-1] == DONE


def test_a_choice_that_has_ended_is_not_ended_again() -> None:
    """One choice: its end is among the last events. An end without a sensible index is nobody's."""
    stream = meter()
    relay(stream, [ROLE, WORDS[0]])
    assert stream.open_choices() == (0,)
    relay(stream, [STOP])
    assert stream.open_choices() == ()
    many = meter(choices=2)
    many.feed(
        delta(0, content="x") + event(choices=[{"index": "0", "finish_reason": "stop"}]) + b'data: {"choices":[{"finish_reason": "x"\n\n'
    )
    assert many.open_choices() == (0, 1)


def test_a_cut_completion_looks_like_a_completion() -> None:
    """The old endpoint has `text`."""
    head = StreamHead(object="text_completion", id="cmpl-1", model="m", created=1)
    last = json.loads(event_data(split_events(clean_cut_events(head))[0]))
    assert last["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}]


def test_an_error_event_is_readable_and_does_not_end_the_stream() -> None:
    """Without `[DONE]` no client takes it for a clean end."""
    assert error_event({"message": "gone", "type": "api_error"}) == b'data: {"error":{"message":"gone","type":"api_error"}}\n\n'


def test_data_over_several_lines_is_one_payload() -> None:
    """The standard joins them."""
    assert event_data(b'event: x\r\ndata: {"a":\r\ndata:1}\r\n\r\n') == b'{"a":\n1}'
    assert event_data(b": comment\n\n") == b""


def test_text_outside_of_choices_is_no_text_of_the_model() -> None:
    """Some gateways say what they do in events of their own; the envelope is measured on the first real one."""
    status = event(content="searching the web")
    stream = meter()
    stream.feed(status + ROLE)
    assert not stream.content_seen
    stream.feed(status + b"".join(WORDS))
    assert stream.content_seen
    assert stream.output_tokens_likely < 200


def test_a_first_event_larger_than_the_average_is_no_envelope() -> None:
    """Some servers repeat the whole request in it: then nothing is taken off, rather than too much."""
    stream = meter()
    for _ in range(2):
        stream.feed(event(choices=[{"index": 0, "delta": {"content": "a"}}], echo="x" * 5000))
    for _ in range(20):
        stream.feed(WORDS[0])
    assert stream.output_tokens_bound == stream.total_bytes


def test_bytes_of_no_known_form_are_counted_while_they_come() -> None:
    """A stream of another dialect is not free while it runs either."""
    stream = meter()
    stream.feed(b"data: plain words\n\n")
    assert stream.output_tokens_likely == stream.total_bytes // 4 + 1


def test_a_key_that_looks_like_usage_leaves_an_event_whole() -> None:
    """Providers have counts of their own."""
    kept = [ROLE, event(choices=[{"index": 0, "delta": {"content": "a"}}], cached_tokens=5), *WORDS, STOP, DONE]
    assert relay(meter(strip=True), kept) == b"".join(kept)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    ("end", "doubt"),
    [
        ([STOP, usage_event(), DONE], None),
        ([STOP, usage_event(), *[b": ping\n\n"] * 9, DONE], None),
        ([STOP, b"data: {broken\n\n", DONE], "missing"),
        ([STOP, b'data: {"choices":5,"model":7}\n\n', DONE], "missing"),
        ([STOP, b'data: {"choices":5,"more":{"usage":1},"x_groq":{"usage":null}}\n\n', DONE], "missing"),
        ([event(choices=[], x_groq={"usage": {**USAGE, "completion_tokens": -3}}), STOP, DONE], "negative"),
        ([STOP, usage_event(error={"message": "late"}), DONE], "error_event"),
        ([delta(finish="stop", usage={**USAGE, "completion_tokens": 9}), usage_event(), DONE], "twice"),
        ([usage_event(), STOP, DONE], None),
        ([usage_event(), DONE], None),
    ],
)
def test_the_end_of_a_stream_is_read_alike_in_one_piece_and_in_many(end: list[bytes], doubt: str | None, newline: bytes) -> None:
    """The usual end is read in one step; every other one event by event."""
    chunks = [chunk.replace(b"\n", newline) for chunk in [b": hello\n\n", ROLE, *WORDS * 5, *end]]
    whole, pieces = meter(), meter()
    relay(whole, [b"".join(chunks)])
    relay(pieces, chunks)
    metered = whole.finish(complete=True)
    assert pieces.finish(complete=True) == metered
    assert metered.usage.doubt == doubt
    assert metered.served_model == "gpt-served"
    assert whole.head == pieces.head == StreamHead(id="chatcmpl-7", created=1_790_000_000, model="gpt-served")


def test_what_was_never_fed_is_counted_at_the_end() -> None:
    """The provider wrote it, whether the client was there to read it or not."""
    stream = meter()
    stream.feed(ROLE + WORDS[0])
    stream.unread = lambda: WORDS[1] + WORDS[2]
    assert stream.finish(complete=False).usage.output_tokens == 4
    stream = meter()
    relay(stream, PLAIN)
    stream.unread = lambda: pytest.fail("the stream is whole")
    assert stream.finish(complete=True).usage == exact(12, 3)
