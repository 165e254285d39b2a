"""What is known of one deployment at this moment, as `router.fleet` keeps it and as policies see it."""

from __future__ import annotations

import msgspec

from policies.types import Candidate, Traits
from router.figures import Latencies, Outcomes

News = tuple[float, float, float | None, int | None, int]
"""When it came, milliseconds of the whole call and until its first token, output tokens, input tokens."""


class FleetView(Candidate, gc=False):
    """A deployment at this moment, as a policy sees it. The fleet's own object: read it at once, do not keep it."""

    expected_output_tokens: float | None = None
    """Moving average for inputs of about the size that was asked for; None if nothing was ever learned."""
    lengths: dict[int, int] = msgspec.field(default_factory=dict)
    """Whole tokens of a likely answer of this deployment, by size of the input."""


class DeploymentState:
    """Everything known of one deployment."""

    __slots__ = (
        "averages",
        "closed",
        "cooldown_seconds",
        "cooled_until",
        "failed_in_a_row",
        "first_token",
        "known",
        "learn_at_once",
        "news",
        "outcomes",
        "probe_until",
        "total",
        "view",
    )

    def __init__(self, name: str) -> None:
        self.view = FleetView(Traits(deployment=name, model="", provider=""))
        self.cooled_until: float | None = None
        """End of the cooldown; None while the deployment is up. In the past: half-open."""
        self.closed = False
        """Whether people took it out: then nothing is sent to it, whatever its health."""
        self.cooldown_seconds = 0.0
        """Length of the last cooldown for failures; 0 after a success."""
        self.probe_until = 0.0
        """Until then the probe is taken."""
        self.failed_in_a_row = 0
        self.outcomes = Outcomes()
        self.first_token = Latencies()
        self.total = Latencies()
        self.averages: dict[int, float] = {}
        """Moving averages of answer lengths, by size of the input."""
        self.news: list[News] = []
        """Answers that were not learned from yet."""
        self.known = 0
        """Answers that were."""
        self.learn_at_once = True
        """While little is known, or something is wrong."""
