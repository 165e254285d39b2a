"""What signals can say: closed sets, so that a configuration that names another is told so."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

TASKS: Final = ("code", "math", "translation", "summary", "extraction", "chat", "other")
"""What `task_of` tells apart."""
_LANGUAGES: Final = "en de fr es pt it nl sv da pl cs tr vi id fi ro hu ru uk bg ar fa ko ja zh hi el he bn ta te th ka hy"
LANGUAGES: Final = frozenset(_LANGUAGES.split())
"""What `language_of` tells apart."""
MISTAKEN: Final = MappingProxyType(
    {"kr": "ko", "jp": "ja", "cn": "zh", "cz": "cs", "dk": "da", "se": "sv", "ua": "uk", "vn": "vi", "gr": "el", "il": "he", "ir": "fa"}
)
"""Codes of countries that are written for their languages."""
PII_CLASSES: Final = (
    "email",
    "phone",
    "card",
    "iban",
    "kr_resident",
    "kr_foreigner",
    "kr_business",
    "passport",
    "person",
    "address",
    "national_id",
    "account",
    "device",
    "other",
    "unknown",
)
"""Classes of personal data. `pii_of` finds those up to `passport`, and `unknown`: the text could not be read through. The others are
for plug-ins: names of people; places; papers, licences and numbers that a state gives; accounts but IBANs; addresses of machines; and
whatever has no class here."""
PLUGIN_CLASSES: Final = frozenset({"person", "address", "national_id", "account", "device", "other"})
"""Those that only a plug-in finds."""
