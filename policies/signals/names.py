"""What signals can say: closed sets, so that a configuration that names another is told so."""

from __future__ import annotations

from typing import Final

TASKS: Final = ("code", "math", "translation", "summary", "extraction", "chat", "other")
"""What `task_of` tells apart."""
PII_CLASSES: Final = (
    "email",
    "phone",
    "card",
    "iban",
    "kr_resident",
    "kr_foreigner",
    "kr_business",
    "passport",
    "unknown",
)
"""What `pii_of` finds. `unknown`: the text could not be read through."""
