"""What this site's own data says of each model: kept at the site, and shown to its own people.

With secure aggregation or differential privacy nobody else sees these figures; the site sees its own bar at home.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from hansa_common.errors import StorageError
from hansa_common.files import storage, write_whole
from hansa_common.metrics import Counts, MainFigure, main_figure, scores
from hansa_common.plan import StudyPlan
from hansa_common.settings import Strict


class OwnFigure(Strict):
    """One model on one of this site's splits."""

    num_examples: int
    accuracy: float | None
    loss: float | None
    figure: MainFigure = "accuracy"
    """What the study's models are compared by."""
    value: float | None = None
    """Of it, where it is no accuracy."""


class OwnFigures(Strict):
    """One study, as this site saw it. Evolution: keys are added with a default."""

    study: str
    validation: dict[int, OwnFigure] = Field(default_factory=dict)
    """By the number of rounds that the model had been trained for."""
    test: OwnFigure | None = None
    """Of the last model."""
    personal: OwnFigure | None = None
    """Of this site's own model, on the same examples."""
    ensemble: OwnFigure | None = None
    """Of the last versions as one, on the same examples."""


def keep(folder: Path, plan: StudyPlan, round_number: int, counts: Mapping[str, Counts]) -> None:
    """Add what one task counted.

    Args:
        folder: The site's.
        plan: The study.
        round_number: How many rounds the model had been trained for.
        counts: Named ``validation`` and, of the last model, ``test``; ``personal`` of the site's own and
            ``ensemble`` of the last versions as one on the test split.

    Raises:
        StorageError: The disk is full or fails, or the file cannot be read back.
    """
    path = _path(folder, plan.digest())
    figures = load(folder, plan.digest()) or OwnFigures(study=plan.name)
    if "validation" in counts:
        figures = figures.model_copy(
            update={"validation": figures.validation | {round_number: _figure(counts["validation"])}}
        )
    of_test: tuple[str, ...] = ("test", "personal", "ensemble")
    figures = figures.model_copy(update={name: _figure(counts[name]) for name in of_test if name in counts})
    with storage(path.parent, "create"):
        path.parent.mkdir(mode=0o700, exist_ok=True)
    write_whole(path, figures.model_dump_json().encode(), mode=0o600)


def load(folder: Path, digest: str) -> OwnFigures | None:
    """Return a study's figures; ``None`` where there are none.

    Raises:
        StorageError: The file cannot be read back.
    """
    path = _path(folder, digest)
    if not path.exists():
        return None
    try:
        return OwnFigures.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StorageError(f"{path} cannot be read back.", advice="Delete it; nothing depends on it.") from error


def all_figures(folder: Path) -> list[OwnFigures]:
    """Return the figures of all studies, the oldest first.

    Raises:
        StorageError: A file cannot be read back.
    """
    paths = sorted((folder / "figures").glob("*.json"), key=lambda path: path.stat().st_mtime)
    return [found for path in paths if (found := load(folder, path.stem)) is not None]


def _path(folder: Path, digest: str) -> Path:
    return folder / "figures" / f"{digest}.json"


def _figure(counts: Counts) -> OwnFigure:
    found, figure = scores(counts), main_figure(counts)
    value = None if figure == "accuracy" else getattr(found, figure)
    return OwnFigure(
        num_examples=counts.num_examples, accuracy=found.accuracy, loss=found.loss, figure=figure, value=value
    )
