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
from collections.abc import Callable
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
_MOST_LIFE: Final = 125  # cycles: an engine does not show earlier that it will fail (Heimes, PHM 2008)
_FAILING: Final = 30  # cycles before its failure from which an engine counts as failing
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
    """Write the readings of all engines of four fleets, as NASA gives them, with what each study learns of a cycle."""
    parts: list[dict[str, npt.NDArray[Any]]] = []
    for fleet in ("FD001", "FD002", "FD003", "FD004"):
        training, testing = _table(data / f"train_{fleet}.txt"), _table(data / f"test_{fleet}.txt")
        lives = _table(data / f"RUL_{fleet}.txt")[:, 0]
        left = _until_last(training)
        failing = np.where(left < _FAILING, 1.0, np.where(left >= _MOST_LIFE, 0.0, np.nan))  # not learned in between
        folds = np.where(training[:, 0] % _VALIDATED == 0, "validation", "train")
        parts.append(_columns(training, fleet, "train", folds, np.minimum(left, _MOST_LIFE), failing))
        # of an engine that tests, NASA asks how long it goes on after its last cycle
        asked = np.where(_until_last(testing) == 0, lives[testing[:, 0].astype(int) - 1], np.nan)
        nothing = np.full(len(testing), np.nan)
        tests = np.full(len(testing), "test")
        parts.append(_columns(testing, fleet, "test", tests, np.minimum(asked, _MOST_LIFE), nothing))
    np.savez_compressed(out / "cmapss.npz", **{key: np.concatenate([part[key] for part in parts]) for key in parts[0]})


def _until_last(table: Floats) -> npt.NDArray[np.float64]:
    """Return how many cycles of its engine follow each row's."""
    engines, cycles = table[:, 0].astype(np.int64), table[:, 1].astype(np.float64)
    last = np.zeros(engines.max() + 1)
    np.maximum.at(last, engines, cycles)
    left: npt.NDArray[np.float64] = last[engines] - cycles
    return left


def _columns(  # noqa: PLR0917 - a column each
    table: Floats,
    fleet: str,
    part: str,
    folds: npt.NDArray[np.str_],
    remaining: npt.NDArray[np.float64],
    failing: npt.NDArray[np.float64],
) -> dict[str, npt.NDArray[Any]]:
    """Return a file's rows by column; engines of both files have numbers from 1 on."""
    readings = ["altitude", "mach", "throttle", *(f"sensor_{number}" for number in range(1, 22))]
    return {
        "fleet": np.full(len(table), fleet),
        "engine": np.asarray([f"{fleet}-{part}-{int(engine)}" for engine in table[:, 0]]),
        "fold": folds,
        "remaining": remaining,
        "failing": failing,
        **dict(zip(readings, table[:, 2:].T, strict=True)),
    }


def _table(path: Path) -> Floats:
    """Return the numbers of a file that blanks separate, plain or gzipped."""
    if not path.exists():
        with gzip.open(f"{path}.gz", "rt", encoding="ascii") as lines:
            return np.loadtxt(lines, dtype=np.float32, ndmin=2)
    return np.loadtxt(path, dtype=np.float32, ndmin=2)


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
