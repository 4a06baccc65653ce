import pytest


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut vectors into parts of 64 values, so that small ones have several."""
    monkeypatch.setattr("hansa_common.parameters.CHUNK", 64)
