"""The documents say what the code says: every key is named, the README's studies are valid, links lead somewhere."""

import importlib
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import BaseModel

import hansa_client.data
from hansa_client.data import ADAPTERS
from hansa_common.models import ARCHITECTURES
from hansa_common.plan import StudyPlan, parse_plan
from hansa_common.settings import Strict
from hansa_server.strategies import STRATEGIES

REPOSITORY = Path(__file__).parents[2]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    arguments = get_args(annotation)
    for inner in arguments[:1] if get_origin(annotation) is Annotated else arguments:
        yield from _models_in(inner)


def _models_below(model: type[BaseModel]) -> set[type[BaseModel]]:
    found = {model}
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            found |= _models_below(inner)
    return found


def _adapter_options() -> set[type[BaseModel]]:
    modules = pkgutil.iter_modules(hansa_client.data.__path__, "hansa_client.data.")
    values = [value for module in modules for value in vars(importlib.import_module(module.name)).values()]
    return {value for value in values if isinstance(value, type) and issubclass(value, Strict) and value is not Strict}


def _field_names() -> list[str]:
    models = _models_below(StudyPlan) | _adapter_options()
    models |= {architecture.options for architecture in ARCHITECTURES.values()}
    models |= {strategy.options for strategy in STRATEGIES.values()}
    return sorted({name for model in models for name in model.model_fields})


def _documented() -> set[str]:
    text = (REPOSITORY / "docs" / "studies.md").read_text(encoding="utf-8")
    return set(re.findall(r"`([\w-]+)`", text))


def test_the_walk_reaches_every_corner_of_a_plan() -> None:
    assert {"mixup", "categories", "quorum", "gpus_per_site", "filters", "missing_values", "split"} <= set(
        _field_names()
    )


@pytest.mark.parametrize("name", _field_names())
def test_every_key_of_a_study_file_is_explained(name: str) -> None:
    assert name in _documented()


@pytest.mark.parametrize("name", sorted([*ARCHITECTURES, *STRATEGIES, *ADAPTERS]))
def test_every_model_strategy_and_adapter_is_explained(name: str) -> None:
    assert name in _documented()


@pytest.mark.parametrize(
    "path",
    sorted(
        path.relative_to(REPOSITORY).as_posix()
        for folder in (REPOSITORY, REPOSITORY / "docs", REPOSITORY / "docs" / "adr")
        for path in folder.glob("*.md")
    ),
)
def test_relative_links_and_pictures_are_there(path: str) -> None:
    page = REPOSITORY / path
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|srcset)=\"([^\"]+)\"", text)
    files = [target.split("#")[0] for target in targets if "://" not in target and not target.startswith("#")]
    assert [file for file in files if not (page.parent / file).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_studies_in_the_readme_are_valid(name: str) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (REPOSITORY / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    table, images = (tomllib.loads(block) for block in blocks)
    assert parse_plan(table).data.kind == "table"
    assert parse_plan(table | images).data.kind == "image"
