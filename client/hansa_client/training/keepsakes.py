"""Pictures and rows of single explained examples: for the site's own people, and never part of a message.

An image becomes two PNG files, itself and itself under its heat map; a flat example a row of a CSV file; an array of
steps and features a CSV file of its own.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa_client.training.attribution import grouped
from hansa_common.contract import ImageContract
from hansa_common.explain_plan import views_of
from hansa_common.metrics.importance import Doubles
from hansa_common.models.registry import Contract

_RUNS = re.compile(r"[=+@\t\r]|-(?!\d)")  # a negative number is one
_LEAST_SIDE = 96  # pixels: small images are enlarged so that a person sees something
_RAISED, _LOWERED = np.array([0.84, 0.1, 0.1]), np.array([0.1, 0.3, 0.84])  # red spoke for the class, blue against it


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One example.

    Attributes:
        features: ``float32 [...]``, as the model got it.
        truth: Its class, number or time.
        predicted: What the model said.
        probability: Of its class.
        attributions: ``float64 [...]``, to the score of its class, or to the number.
    """

    features: npt.NDArray[np.float32] = field(repr=False)
    truth: str = field(repr=False)
    predicted: str
    probability: float | None
    attributions: Doubles = field(repr=False)


def keepsakes(examples: Sequence[Explained], contract: Contract) -> Mapping[str, bytes]:
    """Return files by name; none where there are no examples."""
    if not examples:
        return {}
    if isinstance(contract, ImageContract):
        return _pictures(examples, contract)
    if len(contract.feature_shape) == 1:
        return {"examples.csv": _rows(examples, contract)}
    files = {f"{number:03d}.csv": _table(one) for number, one in enumerate(examples, start=1)}
    return files | {"examples.csv": _rows(examples, contract)}


def _pictures(examples: Sequence[Explained], contract: ImageContract) -> dict[str, bytes]:
    files = {"examples.csv": _answers(examples)}
    if contract.channels not in (1, 3):
        return files
    for number, one in enumerate(examples, start=1):
        image = np.broadcast_to(one.features.transpose(1, 2, 0), (contract.height, contract.width, 3)).clip(0.0, 1.0)
        files[f"{number:03d}-image.png"] = _png(image)
        files[f"{number:03d}-overlay.png"] = _png(overlay(image, one.attributions))
    return files


def overlay(image: npt.NDArray[np.floating[Any]], attributions: Doubles) -> Doubles:
    """Lay a heat map over an image.

    Args:
        image: ``[H, W, 3]`` in 0..1.
        attributions: ``float64 [H, W]`` or ``[C, H, W]``, whose channels are added.

    Returns:
        ``float64 [H, W, 3]``: grey, red where the attribution raised the score and blue where it lowered it, the more
        the larger it is beside the largest one of this image.
    """
    heat = attributions.sum(axis=0) if attributions.ndim == 3 else attributions  # noqa: PLR2004
    largest = np.abs(heat).max()
    strength = np.abs(heat)[..., None] / largest if largest else np.zeros((*heat.shape, 1))
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    colour = np.where(heat[..., None] >= 0.0, _RAISED, _LOWERED)
    mixed: Doubles = (1.0 - 0.8 * strength) * grey + 0.8 * strength * colour
    return mixed


def _png(image: npt.NDArray[np.floating[Any]]) -> bytes:
    from PIL import Image  # noqa: PLC0415 - only where pictures are kept

    pixels: Any = np.rint(np.asarray(image, np.float64) * 255.0).astype(np.uint8)
    times = max(1, -(-_LEAST_SIDE // min(pixels.shape[:2])))
    content = io.BytesIO()
    Image.fromarray(pixels.repeat(times, axis=0).repeat(times, axis=1)).save(content, "PNG", optimize=True)
    return content.getvalue()


def _answers(examples: Sequence[Explained]) -> bytes:
    return _csv([_ANSWER, *(_answer(number, one) for number, one in enumerate(examples, start=1))])


_ANSWER = ["example", "truth", "predicted", "probability_of_class"]


def _answer(number: int, one: Explained) -> list[object]:
    probability = "" if one.probability is None else f"{one.probability:.6g}"
    return [number, _name(one.truth), _name(one.predicted), probability]


def _rows(examples: Sequence[Explained], contract: Contract) -> bytes:
    """Write one row an example: what it is, what the model said, and what each column or feature did."""
    labels = views_of(contract)[0].labels
    rows: list[list[object]] = [[*_ANSWER, *map(_name, labels)]]
    for number, one in enumerate(examples, start=1):
        raising, lowering = grouped(one.attributions[None], contract)
        values = (raising - lowering)[0, : len(labels)]
        rows.append([*_answer(number, one), *(f"{value:.6g}" for value in values)])
    return _csv(rows)


def _table(one: Explained) -> bytes:
    """Write one array: a row a step, its attributions feature by feature."""
    steps = one.attributions.reshape(-1, one.attributions.shape[-1])
    head: list[object] = ["step", *(f"feature {number + 1}" for number in range(steps.shape[1]))]
    return _csv([head, *([number, *(f"{value:.6g}" for value in row)] for number, row in enumerate(steps, start=1))])


def _name(text: str) -> str:
    """Keep a spreadsheet from running a name that somebody else chose."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
