#!/usr/bin/env python3
"""Turns the public files of the shipped studies into what their adapters read: ``prepare_studies.py DATA OUT``.

``DATA`` holds a folder for each data set, as their publishers give them: ``heart_disease`` (the four
``processed.*.data`` of UCI), ``fed_tcga_brca`` (``brca.csv`` and ``train_test_split.csv`` of FLamby),
``credit_default_taiwan`` (``UCI_Credit_Card.csv``), ``bccd_bloodcells`` (crops as an ``.npz``), ``cmapss`` (NASA's
files, plain or gzipped) and ``tinyshakespeare`` (``input.txt`` of char-rnn). What is not there is left out and said so.
Then run a study from ``OUT``:
``hansa simulate .../deploy/studies/heart-disease.toml``.
"""

import argparse
import csv
import gzip
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_HOSPITALS: Final = {"cleveland": "Cleveland", "hungarian": "Hungary", "switzerland": "Switzerland", "va": "Long Beach"}
_TEST_SHARE: Final = 0.34  # of FLamby, which stratifies by class with this seed
_FLAMBY_SEED: Final = 43
_FEWEST: Final = 3  # of a class, for it to be stratified by
_KEPT: Final = 10  # columns of heart disease that FLamby keeps; slope, ca and thal are missing at three hospitals
_LENGTH: Final = 30  # cycles of a window
_STRIDE: Final = 5  # cycles from one training window to the next
_MOST_LIFE: Final = 125  # cycles: an engine does not show earlier that it will fail (Heimes, PHM 2008)
_FAILING: Final = 30  # cycles before its failure from which an engine counts as failing
_ALTITUDES: Final = (0.0, 10.0, 20.0, 25.0, 35.0, 42.0)  # thousand feet, the six conditions of C-MAPSS
_CONSTANT: Final = 1e-3  # a deviation below it is float32's rounding
_VALIDATED: Final = 10  # each so-manyth engine validates
_FEWEST_CHARACTERS: Final = 10_000  # of a role, for it to be a site
_FOLDS: Final = {"train": 0.8, "validation": 0.9, "test": 1.0}  # of a role's speeches, in the order of the plays


def heart_disease(data: Path, out: Path) -> None:
    """Write the patients of Fed-Heart-Disease: complete rows, two columns as indicators, its split."""
    from sklearn.model_selection import train_test_split  # noqa: PLC0415 - slow, and for this one only

    header = ["age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak"]
    header += ["cp_2", "cp_3", "cp_4", "restecg_1", "restecg_2", "disease", "hospital", "fold"]
    rows: list[list[object]] = []
    for file, hospital in _HOSPITALS.items():
        with (data / f"processed.{file}.data").open(encoding="utf-8") as lines:
            records = [row[:_KEPT] + row[-1:] for row in csv.reader(lines) if row]
        values = np.asarray([[float(value) for value in row] for row in records if "?" not in row])
        ill = (values[:, -1] > 0).astype(int)
        strata = ill if np.bincount(ill).min() >= _FEWEST else None  # Switzerland has one healthy patient
        everybody = np.arange(len(values))
        _train, test = train_test_split(everybody, test_size=_TEST_SHARE, stratify=strata, random_state=_FLAMBY_SEED)
        for number, row in enumerate(values):
            plain = [f"{row[place]:g}" for place in (0, 1, 3, 4, 5, 7, 8, 9)]
            indicators = [int(row[2] == kind) for kind in (2, 3, 4)] + [int(row[6] == kind) for kind in (1, 2)]
            fold = "test" if number in set(test.tolist()) else "train"
            rows.append([*plain, *indicators, ("healthy", "ill")[ill[number]], hospital, fold])
    _write(out / "heart_disease.csv", header, rows)


def tcga_brca(data: Path, out: Path) -> None:
    """Write the patients of Fed-TCGA-BRCA with their region and split."""
    with (data / "train_test_split.csv").open(encoding="utf-8") as lines:
        folds = {row["pid"]: row["fold2"].split("_") for row in csv.DictReader(lines)}
    with (data / "brca.csv").open(encoding="utf-8") as lines:
        header, *records = csv.reader(lines)
    kept = [row for row in records if row[0] in folds]
    rows = [
        [*row[1:-2], str(int(float(row[-2]))), row[-1], f"region-{folds[row[0]][1]}", folds[row[0]][0]] for row in kept
    ]
    _write(out / "tcga_brca.csv", [*header[1:-2], "event", "days", "region", "fold"], rows)


def credit_default(data: Path, out: Path) -> None:
    """Write the clients with a segment by education and a band of age."""
    segments = {"1": "graduate school", "2": "university", "3": "high school"}
    with (data / "UCI_Credit_Card.csv").open(encoding="utf-8") as lines:
        header, *records = csv.reader(lines)
    age, education, label = header.index("AGE"), header.index("EDUCATION"), len(header) - 1
    rows = []
    for row in records:
        band = "under 30" if int(row[age]) < 30 else "30 to 44" if int(row[age]) < 45 else "45 and older"  # noqa: PLR2004
        segment = segments.get(row[education], "other")
        rows.append([*row[1:label], ("paid", "default")[int(row[label])], segment, band])
    _write(out / "credit_default.csv", [*header[1:label], "outcome", "segment", "age_band"], rows)


def blood_cells(data: Path, out: Path) -> None:
    """Copy the crops: the adapter reads them as they are."""
    shutil.copyfile(data / "bccd_crops32.npz", out / "blood_cells.npz")


def cmapss(data: Path, out: Path) -> None:
    """Write windows of four fleets: with the cycles that are left, and healthy and failing ones to find anomalies."""
    parts: dict[str, list[Any]] = {"x": [], "y": [], "fleet": [], "engine": [], "fold": []}

    def add(window: Floats, life: float, fleet: str, engine: int, fold: str) -> None:
        for key, value in zip(parts, (window, life, fleet, f"{fleet}-{fold == 'test'}-{engine}", fold), strict=True):
            parts[key].append(value)

    healthy: list[tuple[Floats, int, str, str]] = []
    for fleet in ("FD001", "FD002", "FD003", "FD004"):
        training = _table(data / f"train_{fleet}.txt")
        conditions = _conditions(training)
        for engine, rows in _engines(training, conditions):
            fold = "validation" if engine % _VALIDATED == 0 else "train"
            for end in range(len(rows), _LENGTH - 1, -_STRIDE):
                window, left = rows[end - _LENGTH : end], len(rows) - end
                add(window, min(left, _MOST_LIFE), fleet, engine, fold)
                if left >= _MOST_LIFE or left < _FAILING:
                    healthy.append((window, int(left < _FAILING), fleet, f"{fleet}-{engine}"))
        lives = _table(data / f"RUL_{fleet}.txt")[:, 0]
        for engine, rows in _engines(_table(data / f"test_{fleet}.txt"), conditions):
            padded = np.concatenate([np.repeat(rows[:1], max(0, _LENGTH - len(rows)), axis=0), rows])
            add(padded[-_LENGTH:], min(lives[engine - 1], _MOST_LIFE), fleet, engine, "test")
    arrays = {key: np.asarray(values) for key, values in parts.items()}
    np.savez_compressed(out / "cmapss_rul.npz", **arrays | {"y": arrays["y"].astype(np.float32)})
    keys = ("x", "failing", "fleet", "engine")
    np.savez_compressed(
        out / "cmapss_anomaly.npz",
        **{key: np.asarray(v) for key, v in zip(keys, zip(*healthy, strict=True), strict=True)},
    )


def _table(path: Path) -> Floats:
    """Return the numbers of a file that blanks separate, plain or gzipped."""
    if not path.exists():
        with gzip.open(f"{path}.gz", "rt", encoding="ascii") as lines:
            return np.loadtxt(lines, dtype=np.float32, ndmin=2)
    return np.loadtxt(path, dtype=np.float32, ndmin=2)


def _conditions(training: Floats) -> Floats:
    """Return mean and deviation of each sensor at each altitude, ``[6, 2, 21]``, over one fleet's training engines.

    A sensor says how worn an engine is only against others that fly alike, as each fleet can tell for itself.
    """
    found = np.tile(np.stack([np.zeros(21), np.ones(21)]), (len(_ALTITUDES), 1, 1)).astype(np.float32)
    flown = _flown(training)
    for place in np.unique(flown):
        sensors = training[flown == place][:, 5:].astype(np.float64)
        deviation = sensors.std(axis=0)
        found[place] = sensors.mean(axis=0), np.where(deviation > _CONSTANT, deviation, 1.0)
    return found


def _flown(table: Floats) -> npt.NDArray[np.int64]:
    """Return at which of the six altitudes each cycle was flown."""
    return np.abs(table[:, 2:3] - np.asarray(_ALTITUDES, np.float32)).argmin(axis=1)


def _engines(table: Floats, conditions: Floats) -> Iterator[tuple[int, Floats]]:
    """Yield each engine's number and its cycles: three settings, and 21 sensors by what is usual at the altitude."""
    mean, deviation = conditions[_flown(table)].transpose(1, 0, 2)
    values = np.concatenate([table[:, 2:5], (table[:, 5:] - mean) / deviation], axis=1)
    for engine in np.unique(table[:, 0]):
        yield int(engine), values[table[:, 0] == engine]


def shakespeare(data: Path, out: Path) -> None:
    """Write what each role says, its first speeches to train and its last to test, as LEAF divides them."""
    roles: dict[str, list[str]] = {}
    for block in (data / "input.txt").read_text(encoding="ascii").split("\n\n"):
        role, colon, speech = block.strip().partition(":\n")
        if colon and speech:
            roles.setdefault(role.title(), []).append(speech + "\n")
    rows = []
    for role, speeches in sorted(roles.items()):
        ends = np.cumsum([len(speech) for speech in speeches])
        if ends[-1] < _FEWEST_CHARACTERS:
            continue
        first = 0
        for fold, share in _FOLDS.items():
            last = int(np.searchsorted(ends, share * ends[-1], side="right"))
            rows.append([role, fold, "".join(speeches[first:last])])
            first = last
    _write(out / "shakespeare.csv", ["role", "fold", "text"], rows)


def _write(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


_SETS: Final[dict[str, Callable[[Path, Path], None]]] = {
    "heart_disease": heart_disease,
    "fed_tcga_brca": tcga_brca,
    "credit_default_taiwan": credit_default,
    "bccd_bloodcells": blood_cells,
    "cmapss": cmapss,
    "tinyshakespeare": shakespeare,
}


def main() -> None:
    """Prepare what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=_SETS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, prepare in _SETS.items():
        if arguments.only not in (None, name):
            continue
        if not (arguments.data / name).is_dir():
            print(f"{name}: not in {arguments.data}, left out")  # noqa: T201
            continue
        prepare(arguments.data / name, arguments.out)
        print(f"{name}: done")  # noqa: T201


if __name__ == "__main__":
    main()
