"""What a process does not need is not loaded."""

from __future__ import annotations

import subprocess
import sys


def test_the_common_case_loads_one_client_and_no_adapter() -> None:
    """litellm takes seconds and 170 MB, pyreqwest ten milliseconds: only those pay who use them."""
    code = (
        "import sys, router.adapters.upstream.http1, router.adapters.upstream.presets, router.adapters.upstream.litellm_lane;"
        "print([name for name in ('litellm', 'pyreqwest', 'httpx', 'aiohttp', 'openai') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
