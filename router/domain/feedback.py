"""What clients say of answers: a rating, a label, of a request by its id."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from policies.sequential import Positive

MAX_LABEL: Final = 64
WORDS: Final[dict[str, float]] = {"up": 1.0, "good": 1.0, "down": 0.0, "bad": 0.0}
_is_id: Final = re.compile(r"fg-[0-9a-f]{8,16}-[0-9a-f]{1,16}").fullmatch
"""As `router.app` makes them."""


class Feedback(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rating. The same key may rate a request again; the last one counts."""

    request_id: str
    key_id: str = ""
    """Who rates. It counts only if the record of the request names the same key."""
    at_ms: int = 0
    rating: float | None = None
    """From 0 (useless) to 1 (perfect); None: only a label."""
    label: str = ""


class Lesson(msgspec.Struct, frozen=True, array_like=True):
    """What a rating of an answer says something about: an arm of an experiment, or a candidate of a bandit."""

    key: tuple[str, str, str, str]
    """Route, rule, name, and what else tells it from an earlier one of that name."""
    arm: str
    run: int = 0
    """How often the experiment had been let begin anew."""
    cost: Positive | None = None
    """What the charge takes off the reward of a bandit; None: an arm of an experiment."""


_decode_lessons: Final = msgspec.json.Decoder(tuple[Lesson, ...]).decode


def read_lessons(row: bytes) -> tuple[Lesson, ...]:
    """What a store kept of an answer; none of a row that another version of this program wrote in another form."""
    try:
        return _decode_lessons(row)
    except msgspec.MsgspecError:
        return ()


class Answered(msgspec.Struct, frozen=True):
    """An answer whose rating teaches something."""

    request_id: str
    key_id: str
    """Who may rate it."""
    lessons: tuple[Lesson, ...]


class Taken(msgspec.Struct, frozen=True):
    """A rating that counts from now on."""

    lessons: tuple[Lesson, ...] = ()
    """What it teaches; empty: nothing, since another key asked, or a later word or the same one counts already."""
    before: float | None = None
    """The rating that counted until now."""


class FeedbackError(ValueError):
    """What a client sent is no feedback. The message says what is wrong."""

    def __init__(self, param: str, message: str, *, unknown: bool = False) -> None:
        """`unknown`: it is about a request that cannot be one of this service."""
        super().__init__(message)
        self.param = param
        self.unknown = unknown


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    request_id: str
    rating: float | bool | str | None = None
    label: str = ""


_decode: Final = msgspec.json.Decoder(_Body).decode


def parse_feedback(body: bytes, *, key_id: str, at_ms: int) -> Feedback:
    """Read `{"request_id": "fg-...", "rating": 0.8, "label": "wrong number"}`; true, `up` and `good` are 1.

    Raises:
        FeedbackError: it is something else.
    """
    try:
        given = _decode(body)
    except msgspec.MsgspecError as error:
        raise FeedbackError("", f"The body is not feedback: {error}.") from None
    if _is_id(given.request_id) is None:
        message = "There is no such request: 'request_id' is the value of the header x-faregate-request-id of the answer, 'fg-...'."
        raise FeedbackError("request_id", message, unknown=True)
    rating = WORDS.get(given.rating) if isinstance(given.rating, str) else None if given.rating is None else float(given.rating)
    if (given.rating is not None and rating is None) or (rating is not None and not 0 <= rating <= 1):
        raise FeedbackError("rating", "'rating' is a number from 0 to 1, true, false, 'up', 'good', 'down' or 'bad'.")
    if len(given.label) > MAX_LABEL or not given.label.isprintable():
        raise FeedbackError("label", f"'label' is a text of at most {MAX_LABEL} printable characters.")
    if rating is None and not given.label:
        raise FeedbackError("rating", "Give a 'rating', a 'label', or both.")
    return Feedback(request_id=given.request_id, key_id=key_id, at_ms=at_ms, rating=rating, label=given.label)


def latest(given: Iterable[Feedback]) -> dict[tuple[str, str], Feedback]:
    """The last word of each key on each request, by request and key."""
    found: dict[tuple[str, str], Feedback] = {}
    for one in given:
        before = found.get((one.request_id, one.key_id))
        if before is None or before.at_ms <= one.at_ms:
            found[(one.request_id, one.key_id)] = one
    return found
