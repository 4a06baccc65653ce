"""Every implementation is registered, every registered one is tested, the bundle holds data only."""

import importlib
import io
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from hansa_client.data import ADAPTERS
from hansa_common.models import ARCHITECTURES
from hansa_common.plan import read_plan
from hansa_common.registry import Registry
from hansa_server.simulation import check
from hansa_server.strategies import STRATEGIES

REPOSITORY = Path(__file__).parents[2]
ROOMS = {
    "models": (ARCHITECTURES, REPOSITORY / "common/hansa_common/models", ".register("),
    "strategies": (STRATEGIES, REPOSITORY / "server/hansa_server/strategies", ".register("),
    "adapters": (ADAPTERS, REPOSITORY / "client/hansa_client/data", ".register("),
}
STUDIES = sorted((REPOSITORY / "deploy/studies").glob("*.toml"))


@pytest.mark.parametrize(("registry", "folder", "mark"), ROOMS.values(), ids=ROOMS.keys())
def test_every_implementation_in_the_folder_is_registered(registry: Registry[object], folder: Path, mark: str) -> None:
    files = [
        path
        for path in folder.glob("*.py")
        if any(f"{name}{mark}" in path.read_text() for name in ("ARCHITECTURES", "STRATEGIES", "ADAPTERS"))
    ]
    assert len(files) == len(registry)
    for path in files:
        package = ".".join(path.relative_to(folder.parents[1]).with_suffix("").parts)
        importlib.import_module(package)


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_every_study_that_is_shipped_can_be_run(study: Path) -> None:
    plan = read_plan(study)
    assert plan.simulation is not None
    path = plan.simulation.data.path
    if path is not None and not Path(path).exists():
        pytest.skip(f"{path} is not here: scripts/prepare_studies.py makes it of public files")
    assert check(plan)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the library that Flower reads .gitignore with
@pytest.mark.slow
def test_the_flower_bundle_holds_data_only() -> None:
    bundle = build_fab_from_disk(REPOSITORY)
    names = zipfile.ZipFile(io.BytesIO(bundle)).namelist()
    allowed = {"pyproject.toml", "LICENSE", ".info/CONTENT"}
    assert {name for name in names if name not in allowed and not name.endswith(".toml")} == set()
    assert any(name.endswith("digits.toml") for name in names)
