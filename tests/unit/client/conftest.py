import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets that are not in the repository."""
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = Path(os.environ.get("HANSA_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"there is no real data: HANSA_TEST_DATA is not set and {default} does not exist")
    return folder
