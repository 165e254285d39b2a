"""Cost and quality of models and routes as a log shows them: what answers cost, and how clients rated them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from router.replay.evaluation import Point, mark_frontier
from router.replay.requests import Asked

TODAY: Final = "today's policy"


def points_of_log(requests: Iterable[Asked], *, least: int) -> tuple[list[Point], list[tuple[str, int]]]:
    """(Every model and route whose answers have at least so many ratings, and all together; models with fewer, and how many).

    The quality is the mean rating, 0 to 1; the cost that of an answer with everything that was called for it.
    """
    by_model: dict[str, list[Asked]] = {}
    by_route: dict[str, list[Asked]] = {}
    answered = [asked for asked in requests if asked.answered]
    for asked in answered:
        by_model.setdefault(asked.model, []).append(asked)
        by_route.setdefault(asked.facts.route, []).append(asked)
    models = {name: _point(name, group) for name, group in by_model.items()}
    found = [point for point in models.values() if point.prompts >= least]
    mark_frontier(found)
    found.sort(key=lambda point: point.cost_nusd)
    # A route with one model says nothing that the model does not.
    routes = [(name, group) for name, group in by_route.items() if len({asked.model for asked in group}) > 1]
    policies = [_point(f"route {name}", group) for name, group in routes] + ([_point(TODAY, answered)] if len(by_model) > 1 else [])
    for point in policies:
        point.kind = "policy"
    few = [(name, point.prompts) for name, point in models.items() if point.prompts < least]
    return [*found, *(point for point in policies if point.prompts >= least)], few


def _point(name: str, answers: list[Asked]) -> Point:
    ratings = [asked.rating for asked in answers if asked.rating is not None]
    return Point(
        name=name,
        cost_nusd=sum(asked.charge_nusd for asked in answers) / len(answers),
        quality=sum(ratings) / len(ratings) if ratings else 0.0,
        prompts=len(ratings),
    )
