"""What the stages hand to each other: one client request, and its attempts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from policies.engine import Branch
from policies.plans import Plan
from policies.types import NO_SIGNALS, NOTHING, Decision, Moment, RequestFacts, Restriction
from router.domain.budgets import BucketSet, Reservation
from router.domain.estimate import estimate
from router.domain.extras import Billed
from router.domain.learning import Habits
from router.domain.prompt_text import Prompt
from router.domain.request import Operation, ParsedRequest
from router.domain.stream_metering import StreamMeter
from router.domain.usage import Usage
from router.edge.headers import Headers
from router.errors import POLICY_REFUSED, RouterError
from router.metrics_series import AttemptSeries, RequestSeries
from router.ports import Timeouts
from router.snapshot import Deployment, Guards, Route, Snapshot

if TYPE_CHECKING:
    from router.moments import Moments
    from router.runaway import OnlySmall
    from router.steering import Steering


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who is acting."""

    key_id: str = ""
    """Public id of the key; empty where no key is needed."""
    name: str = "anonymous"
    team: str = ""
    org: str = ""
    """Of the team."""
    models: frozenset[str] | None = None
    """Routes and models that may be asked for; None: all."""
    tags: Mapping[str, str] = NOTHING
    expires_ms: int | None = None
    guards: tuple[Guards, ...] = ()
    """What one request may ask for, as its team and its key say."""
    max_cost_nusd: int | None = None
    """Most that one request may cost."""


class Regular:
    """What plain calls of one principal for one route have in common, see `router.regulars`."""

    __slots__ = ("facts", "plain", "principal", "route")

    def __init__(self, principal: Principal, route: Route, *, facts: Callable[..., RequestFacts], plain: bool) -> None:
        self.principal = principal
        self.route = route
        self.facts = facts
        """What the policy may know, made of: likely tokens, most tokens, output cap, choices, whether it is streamed."""
        self.plain = plain
        """Whether calls of this principal for this route can be plain at all."""


class Plain(NamedTuple):
    """What is the same for all answers that came whole and cost nothing but their tokens, by one way: the lines about them are
    ready but for their numbers."""

    record: bytes
    """The spend record; `router.settlement` has the numbers, in their order."""
    input_rate: int
    """nano-USD per million tokens."""
    output_rate: int
    fixed: int
    """nano-USD per request."""


class Way:
    """What is the same for all calls of one principal by one rule to one deployment: worked out once, then kept."""

    __slots__ = (
        "answered",
        "buckets",
        "habits",
        "heads",
        "log",
        "ok_log",
        "plain",
        "priced_by_image",
        "record",
        "secrets",
        "served",
        "tiered",
        "timeouts",
    )

    def __init__(
        self,
        *,
        record: bytes,
        log: bytes,
        ok_log: bytes,
        tiered: bool,
        timeouts: Timeouts,
        plain: Plain | None = None,
        priced_by_image: bool = False,
        secrets: tuple[bytes, ...] = (),
    ) -> None:
        self.record = record
        """The members of a spend record that do not change, as JSON without braces."""
        self.log = log
        """The same of a line of the request log."""
        self.ok_log = ok_log
        """The line of the request log for an answer without any trouble, ready but for its numbers."""
        self.plain = plain
        """None: what a call costs, or what is told of it, is more than that."""
        self.tiered = tiered
        """Whether the rates depend on the length of the prompt, so that each record names its own."""
        self.priced_by_image = priced_by_image
        """Whether each record names the number of images."""
        self.timeouts = timeouts
        self.secrets = secrets
        """What begins a credential of the provider."""
        self.heads: dict[bool, bytes] = {}
        """Header lines of an answer: of a stream, and of a JSON body."""
        self.buckets: BucketSet | None = None
        """What reservations along this way fall under, until a window ends."""
        self.habits: Habits | None = None
        """What answers to such requests have taught; None: nothing is to be learned."""
        self.answered: AttemptSeries | None = None
        """What attempts count in whose outcome is `ok`, once there was one."""
        self.served: RequestSeries | None = None
        """What requests count in that such an attempt answered, once there was one."""


class Call:
    """One request of a client, from its first byte to its last settlement."""

    principal = Principal()
    routed = False
    """Whether `route`, `branch` and `facts` are set."""
    request: ParsedRequest
    regular: Regular | None = None
    """What it has in common with others, if it is plain."""
    route: Route
    branch: Branch
    facts: RequestFacts
    decision: Decision | None = None
    decision_seconds: float | None = None
    user = ""
    session = ""
    tags: Mapping[str, str] = NOTHING
    attempts = 0
    """Calls made to providers."""
    winner: Attempt | None = None
    """The attempt whose answer the client gets."""
    upstream_seconds = 0.0
    """Time spent waiting for providers before the first byte to the client."""
    first_byte_at: float | None = None
    status = 0
    outcome = ""
    error_code = ""
    charge_nusd = 0
    usage: Usage | None = None
    budget_left_nusd: int | None = None
    stream = False
    rate_lines = b""
    """`x-ratelimit-*` header lines; empty where no limit of ours applies. A provider's own are then not shown."""
    max_attempts: int | None = None
    """Most calls to providers; None: as the route says."""
    guard_attempts: int | None = None
    """Most calls to providers that its guards allow, whatever its plan asks for."""
    beside_nusd = 0
    """The most that a call of the same request may cost that is under way beside this one."""
    delay_seconds = 0.0
    """How long the call is held back before it is made: its session runs away."""
    steering: Steering | OnlySmall | None = None
    """What budgets that fill leave out; None while none does."""
    restrict: Restriction | None = None
    """What it asks of its own routing, the limits of its route and its key counted in."""
    trace = b""
    """What the decision was made of, as JSON, until the first record of an attempt names it; empty if it is not kept."""
    tried: tuple[tuple[Deployment, Way], ...] = ()
    """Where attempts went that gave no answer, in order."""
    refused_by = ""
    """The budget, limit or guard that had no room for it, or for the rest of a stream."""
    prompt: Prompt | None = None
    """Its text, once a signal was asked for."""
    signals = NO_SIGNALS
    """What is known of its text."""
    moments: Moments | None = None
    """Where rules read the time, the budgets and the providers; None: no rule does."""
    moment: Moment | None = None
    """What they read there."""
    special = False
    """Whether it has a plan or a deadline."""
    plan: Plan | None = None
    """What is to be done beside trying one candidate after the other."""
    results: list[tuple[Attempt, str]]
    """Of a call with a plan: its attempts, and why each failed."""
    deadline: float | None = None
    """Monotonic seconds at which all must be over; None: it has none."""
    deadline_ms = 0.0
    """The same as it was asked for."""
    kept: Callable[[], Awaitable[None]] | None = None
    """Gives the client an answer that did not pass its checks: better than none."""
    left_as = ""
    """Why its attempt was given up, if not because the client left or the service ends."""
    guarded: tuple[str, str] | None = None
    """The guard that it broke, and what was done."""

    def __init__(self, *, request_id: str, operation: Operation, headers: Headers, snapshot: Snapshot, began: float) -> None:
        self.request_id = request_id
        self.id_bytes = request_id.encode("ascii")
        self.operation = operation
        self.headers = headers
        self.snapshot = snapshot
        """The configuration that was in force when the request came; it holds to its end."""
        self.began = began
        """Monotonic seconds."""


AttemptState = Literal["held", "booked", "closed"]
"""Money is held; the charge is fixed but not yet in the store; settled or voided."""


class Attempt:
    """One call of one deployment, with the money held for it."""

    state: AttemptState = "held"
    began = 0.0
    held: Reservation
    """The money, once it is held."""
    first_byte_at: float | None = None
    status = 0
    """HTTP status of the provider; 0 if it gave none."""
    sends = 1
    """How often the request was sent: twice if a kept connection was closed before the provider had the whole of it."""
    meter: StreamMeter | None = None
    """Counts a stream while it runs."""
    answered_tier = ""
    """The service tier that the provider says it served, if rates depend on it."""
    billed: Billed | None = None
    """At what it is charged, if not at the usual price alone."""
    charge_nusd = 0
    tokens: int | None = None
    """Tokens in and out, for limits that count them; None: unknown, or nothing counts them."""
    clamped_to = 0
    """The cap that was forwarded because a budget had no room for more; 0 otherwise."""
    returned = 0
    """How often a hold of it was given back before anything was sent."""
    record = b""
    """The spend record, once the charge is booked."""

    def __init__(self, call: Call, deployment: Deployment, reason: str, way: Way, *, whole: bool = False) -> None:
        """`reason` says why this deployment: the policy kind, or `fallback:` and the cause. `whole`: not held slice by slice.

        Raises:
            RouterError: the deployment may not see a private request. Every way to a provider begins here, so none leads past it.
        """
        allowed = call.branch.allowed
        if allowed is not None and deployment.name not in allowed:
            raise RouterError(POLICY_REFUSED, f"{deployment.name} may not see {', '.join(call.branch.private)} requests.")
        self.call = call
        self.number = number = call.attempts + 1
        self.attempt_id = f"{call.request_id}.{number}"
        self.deployment = deployment
        self.price = deployment.price
        """In force when it began; its rates are charged."""
        self.estimate = estimate(call.request, deployment, call.snapshot.server, way.timeouts, way.habits, whole=whole)
        self.reason = reason
        self.way = way
