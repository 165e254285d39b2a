"""Every path that is served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from router.domain.request import Operation

OPERATIONS: Final[Mapping[bytes, Operation]] = {
    b"/v1/chat/completions": "chat",
    b"/v1/completions": "completions",
    b"/v1/embeddings": "embeddings",
}
"""Calls for models: POST, JSON; served by the pipeline."""

MODELS: Final = "/v1/models"
MODEL: Final = "/v1/models/{name:path}"
ME: Final = "/v1/me"
LIVE: Final = "/livez"
READY: Final = "/readyz"
METRICS: Final = "/metrics"

FEEDBACK: Final = "/v1/feedback"
FEEDBACK_MEANING: Final = "What the answer to a request of the same key was worth: `request_id`, `rating` from 0 to 1, `label`."
"""POST: answered by `router.admin.feedback`."""

OTHERS: Final[Mapping[str, str]] = {
    MODELS: "Names that `model` may be: routes, models and deployments that the key may use.",
    MODEL: "One of them.",
    ME: "The key's own name, team, limits and spending. Times are ISO 8601 in UTC.",
    LIVE: "200 while the process runs.",
    READY: "200 while the configuration is loaded and the store can reserve; else 503 and why.",
    METRICS: "Prometheus metrics of all workers.",
}
"""GET: pages, answered by `router.admin`."""
