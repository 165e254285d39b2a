"""A test that may be looked at after every call: is an arm of an experiment worse than allowed?

It is the mixture sequential probability ratio test (mSPRT; R. Johari, L. Pekelis, D. Walsh, "Always valid inference", 2015) of
the difference of two means, with the variances as estimated so far. However often it is looked at, it takes an arm that is
within its limit for worse with a chance of at most `alpha`, for large samples.

Failures are looked at from the first call on, too: confidence sequences of both shares (S. Robbins, "Statistical methods related to
the law of the iterated logarithm", 1970), which hold for samples of any size. Each of both tests has half of the chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import msgspec

from policies.plans import Stop

SPREAD_OF_ERRORS: Final = 0.1
"""How far shares of failures usually differ, if they differ: the standard deviation of the mixture."""
BISECTIONS: Final = 30
SPREAD_OF_LOGS: Final = 0.3
"""The same for logarithms of times and charges: a third more or less."""
SPREAD_OF_RATINGS: Final = 0.1
"""The same for means of ratings from 0 to 1."""
MOST: Final = 2**60
"""No figure that is read is larger: it would be no experience, and overflow."""
Count = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
Figure = Annotated[float, msgspec.Meta(ge=-MOST, le=MOST)]
Positive = Annotated[float, msgspec.Meta(ge=0, le=MOST)]


class Moments(msgspec.Struct):
    """Count, mean and sum of squared differences of what was seen (Welford's way)."""

    count: Count = 0
    mean: Figure = 0.0
    squares: Positive = 0.0

    def add(self, value: float) -> None:
        """One more value."""
        self.count += 1
        gap = value - self.mean
        self.mean += gap / self.count
        self.squares += gap * (value - self.mean)

    def without(self, others: Moments) -> Moments:
        """As if these, which are all among them, had never been added."""
        count = self.count - others.count
        if count <= 0:
            return Moments()
        mean = self.mean - (others.mean - self.mean) * others.count / count
        gap = others.mean - mean
        return Moments(count, mean, max(0.0, self.squares - others.squares - gap * gap * count * others.count / self.count))

    @property
    def variance(self) -> float:
        """Of one value; at least two must have been seen."""
        return self.squares / (self.count - 1)


class ArmState(msgspec.Struct):
    """What came of the calls of one arm."""

    calls: Count = 0
    failures: Count = 0
    first_token: Moments = msgspec.field(default_factory=Moments)
    """Natural logarithms of milliseconds."""
    cost: Moments = msgspec.field(default_factory=Moments)
    """Natural logarithms of nano-USD."""
    rated: Moments = msgspec.field(default_factory=Moments)
    """What clients said of answers, from 0 to 1."""
    replaced: Moments = msgspec.field(default_factory=Moments)
    """Those that a later word of the same client replaced: whoever learned of the later one need not be who learned of the earlier."""

    @property
    def ratings(self) -> Moments:
        """What clients said last of each answer."""
        return self.rated.without(self.replaced)

    def add(self, *, failed: bool, first_token_ms: float | None, charge_nusd: int) -> None:
        """One more call. Times and charges of failed calls do not count."""
        self.calls += 1
        self.failures += failed
        if failed:
            return
        if first_token_ms is not None and first_token_ms > 0:
            self.first_token.add(math.log(first_token_ms))
        if charge_nusd > 0:
            self.cost.add(math.log(charge_nusd))


def arms_together(parts: Sequence[ArmState]) -> ArmState:
    """As if the calls of all had been of one."""
    return ArmState(
        calls=sum(part.calls for part in parts),
        failures=sum(part.failures for part in parts),
        first_token=_together([part.first_token for part in parts]),
        cost=_together([part.cost for part in parts]),
        rated=_together([part.rated for part in parts]),
        replaced=_together([part.replaced for part in parts]),
    )


def reason_to_stop(stop: Stop, arms: Mapping[str, ArmState]) -> str:
    """`errors`, `first_token`, `cost` or `rating`, whichever shows that the arm is worse than allowed; empty if nothing does.

    The others are all arms but this one. The chance of a mistake is split evenly between what is looked at.
    """
    own = arms.get(stop.arm, ArmState())
    others = [state for name, state in arms.items() if name != stop.arm]
    looked_at = [limit for limit in (stop.errors, stop.first_token, stop.cost, stop.rating) if limit is not None]
    if not looked_at:
        return ""
    alpha = stop.alpha / len(looked_at)
    if stop.errors is not None and _errs(stop, own, others, alpha):
        return "errors"
    for name, limit in (("first_token", stop.first_token), ("cost", stop.cost)):
        if limit is not None and _exceeds(getattr(own, name), [getattr(each, name) for each in others], limit, stop.least, alpha):
            return name
    return "rating" if stop.rating is not None and _rates_lower(stop, own.ratings, [each.ratings for each in others], alpha) else ""


def _errs(stop: Stop, own: ArmState, others: list[ArmState], alpha: float) -> bool:
    calls, failures = sum(each.calls for each in others), sum(each.failures for each in others)
    if not own.failures:
        return False
    if _fails_for_certain(own, calls, failures, stop.errors or 0.0, alpha / 2):
        return True
    if min(own.calls, calls) < stop.least:
        return False
    alpha /= 2
    # One success and one failure more on each side: without any failure seen, the variance would be none.
    share, usual = (own.failures + 1) / (own.calls + 2), (failures + 1) / (calls + 2)
    variance = share * (1 - share) / own.calls + usual * (1 - usual) / calls
    gap = own.failures / own.calls - failures / calls - (stop.errors or 0.0)
    return is_above(gap, variance, SPREAD_OF_ERRORS, alpha)


def _fails_for_certain(own: ArmState, calls: int, failures: int, limit: float, alpha: float) -> bool:
    """Whether even the least share of failures of the arm that can be believed is above the highest of the others and the limit."""
    if own.failures / own.calls <= (failures / calls if calls else 1.0) + limit:
        return False
    usual = highest_share(failures, calls, alpha / 2) + limit
    return usual < 1 and own.failures / own.calls > usual and _against(usual, own.failures, own.calls) >= -math.log(alpha / 2)


def highest_share(failures: int, calls: int, alpha: float) -> float:
    """A bound on the chance to fail that holds after every call at once, but for a chance of `alpha`; 1 before the first call."""
    low, high = (failures / calls, 1.0) if calls else (1.0, 1.0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if _against(middle, failures, calls) >= -math.log(alpha) else (middle, high)
    return high


def _against(share: float, failures: int, calls: int) -> float:
    """Logarithm of how much likelier what was seen is if every chance to fail is as likely as any other than if it is this one."""
    if share >= 1:
        return math.inf if failures < calls else 0.0
    passed = calls - failures
    mixed = math.lgamma(failures + 1) + math.lgamma(passed + 1) - math.lgamma(calls + 2)
    return mixed - (failures * math.log(share) if failures else 0.0) - passed * math.log1p(-share)


def _exceeds(own: Moments, others: list[Moments], limit: float, least: int, alpha: float) -> bool:
    usual = _together(others)
    if min(own.count, usual.count) < least:
        return False
    variance = own.variance / own.count + usual.variance / usual.count
    return is_above(own.mean - usual.mean - math.log1p(limit), variance, SPREAD_OF_LOGS, alpha)


def _rates_lower(stop: Stop, own: Moments, others: list[Moments], alpha: float) -> bool:
    usual = _together(others)
    if min(own.count, usual.count) < stop.least:
        return False
    # One best and one worst rating more on each side: where all were alike, the variance would be none.
    mean, usual_mean = (own.mean * own.count + 1) / (own.count + 2), (usual.mean * usual.count + 1) / (usual.count + 2)
    variance = _spread_of_ratings(own) / own.count + _spread_of_ratings(usual) / usual.count
    # The difference itself is shrunk by that, too: in doubt it is less.
    return is_above(usual_mean - mean - (stop.rating or 0.0), variance, SPREAD_OF_RATINGS, alpha)


def _spread_of_ratings(rated: Moments) -> float:
    """The variance of one rating, with one of 0 and one of 1 added."""
    with_both = Moments(rated.count, rated.mean, rated.squares)
    with_both.add(0.0)
    with_both.add(1.0)
    return with_both.variance


def _together(parts: Sequence[Moments]) -> Moments:
    made = Moments()
    for part in parts:
        count = made.count + part.count
        if part.count:
            gap = part.mean - made.mean
            made.squares += part.squares + gap * gap * made.count * part.count / count
            made.mean += gap * part.count / count
            made.count = count
    return made


def is_above(gap: float, variance: float, spread: float, alpha: float) -> bool:
    """Whether a difference is above 0 for certain enough. `variance`: of its estimate; `spread`: of the mixture."""
    if gap <= 0:
        return False
    # All values alike, and different from the others': nothing speaks for chance.
    if variance <= 0:
        return True
    wide = spread * spread
    log_ratio = 0.5 * math.log(variance / (variance + wide)) + wide * gap * gap / (2 * variance * (variance + wide))
    return log_ratio >= -math.log(alpha)
