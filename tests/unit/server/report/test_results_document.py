import re
from pathlib import Path

from pydantic import BaseModel

from hansa_server import results

DOCUMENT = Path(__file__).parents[4] / "docs" / "results.md"


def test_every_key_of_metrics_json_is_explained() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    models = [
        value
        for value in vars(results).values()
        if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == results.__name__
    ]
    fields = {name for model in models for name in model.model_fields}
    assert len(fields) > 50
    assert {name for name in fields if f"`{name}`" not in text} == set()


def test_every_file_of_a_run_is_explained() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    files = set(re.findall(r"^\| `([^`]+)` \|", text.partition("## Reading")[0], flags=re.MULTILINE))
    assert files == {
        "report.html",
        "model.safetensors",
        "versions/",
        "MODEL_CARD.md",
        "metrics.json",
        "metrics.csv",
        "partition.svg",
        "plan.toml",
        "checkpoint.safetensors",
        "workers.log",
        "statistics.json",
        "preprocessing.json",
        "sites/<number>/personal.safetensors",
        "explanations/<number> <site>/",
        ".lock",
    }
