"""A real browser for the tests of pages."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, headless; skipped without it, unless $UPCYCLE_BROWSER says that it is required."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _absent("playwright is not installed")
    if not CHROMIUM.exists():
        _absent(f"{CHROMIUM} is not installed")
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


def _absent(reason: str) -> None:
    if os.environ.get("UPCYCLE_BROWSER") == "required":
        pytest.fail(reason)
    pytest.skip(reason)
