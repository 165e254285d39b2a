"""The simulated provider's prompt cache: what a repeated beginning saves."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

from router.sim.words import tokenize

BLOCK_TOKENS: Final = 128
LEAST_TOKENS: Final = 1024
"""Shorter prompts are never cached. Both figures as OpenAI's prompt caching guide has them, read 2026-11."""
_KEPT_BLOCKS: Final = 100_000


class PromptCache:
    """Remembers beginnings of prompts per model, in blocks; the oldest are forgotten."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def lookup(self, model: str, prompt: str) -> int:
        """How many tokens of the prompt's beginning were seen before; remembers the prompt."""
        # A token has at least one character, so this spares short prompts the work.
        if len(prompt) < LEAST_TOKENS:
            return 0
        tokens = tokenize(prompt)
        if len(tokens) < LEAST_TOKENS:
            return 0
        digest = hashlib.blake2b(model.encode(), digest_size=16)
        known = 0
        for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            digest.update("".join(tokens[start : start + BLOCK_TOKENS]).encode("utf-8", "surrogatepass"))
            block = digest.digest()
            if block in self._seen:
                known = start + BLOCK_TOKENS
            self._seen[block] = None
            self._seen.move_to_end(block)
        while len(self._seen) > _KEPT_BLOCKS:
            self._seen.popitem(last=False)
        return known if known >= LEAST_TOKENS else 0
