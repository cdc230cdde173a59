"""Fixtures of the trainer's tests."""

from pathlib import Path

import pytest


@pytest.fixture
def own(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of an importable module of a user's, which has the text `OWN` of the test's module."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(request.module.OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name
