from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansa_client.data import ADAPTERS, Source, files
from hansa_common.contract import ArrayContract, NumberTarget, ReconstructionTarget
from hansa_common.errors import ContractViolation, DataUnavailable, SettingsError
from hansa_common.series import WindowsContract

LINES = (
    "pump,heat,load,wear,state,shift",
    "B,1,10,0.1,ok,day",
    "A,2,20,0.2,ok,day",
    "B,3,30,0.3,ok,day",
    "B,5,50,0.5,worn,day",
    "A,4,40,0.4,ok,day",
    "B,7,70,0.7,worn,day",
)


WEAR = NumberTarget(kind="number", maximum=2.0)


def contract(target: Any = WEAR, classes: tuple[str, ...] = (), **windows: Any) -> ArrayContract:
    values = {"columns": ("heat", "load"), "unit": "pump", "label": "wear"} | windows
    return ArrayContract(
        kind="array",
        shape=(2, 2),
        target=target,
        classes=classes,
        minimum_examples=1,
        windows=WindowsContract.model_validate(values),
    )


def read(folder: Path, lines: tuple[str, ...], asked: Any, columns: tuple[str, ...] = (), **options: Any) -> Any:
    path = folder / "pumps.csv"
    path.write_text("\n".join(lines) + "\n")
    return ADAPTERS["windows"](Source(path=path, options=options, columns=columns), asked)


def heats(dataset: Any) -> list[list[float]]:
    found: list[list[float]] = dataset.features[..., 0].tolist()
    assert np.array_equal(dataset.features[..., 1], dataset.features[..., 0] * 10)
    return found


def test_windows_are_of_one_unit_in_the_order_of_the_file(tmp_path: Path) -> None:
    dataset = read(tmp_path, LINES, contract())
    assert heats(dataset) == [[1, 3], [3, 5], [5, 7], [2, 4]]
    assert dataset.targets.tolist() == pytest.approx([0.3, 0.5, 0.7, 0.4])
    assert dataset.columns["pump"].tolist() == ["B", "B", "B", "A"]
    assert dataset.columns["state"].tolist() == ["ok", "worn", "worn", "ok"]
    assert "heat" not in dataset.columns


def test_a_forecast_reads_the_label_later(tmp_path: Path) -> None:
    dataset = read(tmp_path, LINES, contract(NumberTarget(kind="number"), label="heat", horizon=1, short="drop"))
    assert heats(dataset) == [[1, 3], [3, 5]]
    assert dataset.targets.tolist() == [5.0, 7.0]


def test_remaining_rows_are_counted_up_to_the_most(tmp_path: Path) -> None:
    more = (*LINES, "B,9,90,0.9,worn,day", "B,11,110,0.9,worn,day")
    dataset = read(tmp_path, more, contract(label=None, remaining=True))
    assert heats(dataset) == [[1, 3], [3, 5], [5, 7], [7, 9], [9, 11], [2, 4]]
    assert dataset.targets.tolist() == [2, 2, 2, 1, 0, 0]


def test_classes_and_anomalies_are_read_at_the_last_row(tmp_path: Path) -> None:
    asked = contract(None, ("ok", "worn"), label="state")
    assert read(tmp_path, LINES, asked).labels.tolist() == [0, 1, 1, 0]
    target = ReconstructionTarget(kind="reconstruction", anomaly="state", normal=("ok",), anomalous=("worn",))
    assert read(tmp_path, LINES, contract(target, label=None)).labels.tolist() == [0, 1, 1, 0]
    unknown = ReconstructionTarget(kind="reconstruction")
    assert read(tmp_path, LINES, contract(unknown, label=None)).labels.tolist() == [0, 0, 0, 0]


def test_windows_without_a_label_are_left_out_where_the_plan_says_so(tmp_path: Path) -> None:
    gaps = tuple(line.replace("0.3", "").replace("0.4", "NA") for line in LINES)
    dataset = read(tmp_path, gaps, contract(unlabelled="drop"))
    assert heats(dataset) == [[3, 5], [5, 7]]
    with pytest.raises(ContractViolation, match=r"column 'wear': .*found no value in row\(s\) 4, 6 \(2 of 4 rows\)"):
        read(tmp_path, gaps, contract())


def test_short_units_are_refused_left_out_or_filled_up(tmp_path: Path) -> None:
    lines = (*LINES, "C,8,80,0.8,ok,day")
    with pytest.raises(ContractViolation, match="1 of 3 units in column 'pump' have fewer than 2 rows: 'C' with 1"):
        read(tmp_path, lines, contract())
    assert len(read(tmp_path, lines, contract(short="drop"))) == 4
    assert heats(read(tmp_path, lines, contract(short="pad")))[-1] == [8, 8]


def test_an_archive_of_columns_is_read_as_the_text_is(tmp_path: Path) -> None:
    path = tmp_path / "pumps.npz"
    rows = [line.split(",") for line in LINES[1:]]
    columns = dict(zip(LINES[0].split(","), np.asarray(rows).T, strict=True))
    numbers = {name: columns[name].astype(np.float64) for name in ("heat", "load", "wear")}
    np.savez(path, **(columns | numbers))
    source = Source(path=path, options={"form": "npz"})
    found, expected = ADAPTERS["windows"](source, contract()), read(tmp_path, LINES, contract())
    assert np.array_equal(found.features, expected.features)
    assert found.targets is not None
    assert found.targets.tolist() == expected.targets.tolist()
    assert found.columns["pump"].tolist() == expected.columns["pump"].tolist()
    np.savez(path, heat=np.zeros(3), load=np.zeros(4))
    with pytest.raises(DataUnavailable, match="no columns of one length"):
        ADAPTERS["windows"](source, contract())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("load", "lode", "column 'load' is missing. Did you mean 'lode'"),
        ("A,4,40", "A,4,NaN", r"column 'load': expected a number; found no value in row\(s\) 6 \(1 of 6 rows\)"),
        ("A,4,40", "A,4,high", r"column 'load': expected a number; found 'high' in row\(s\) 6"),
        ("A,4,40", "A,4,inf", r"column 'load'.*found 'inf' in row\(s\) 6"),
        ("A,4,40", ",4,40", r"column 'pump': expected what a row is of; found no value in row\(s\) 6"),
        ("0.4", "7", r"column 'wear': expected a number of at most 2; found '7' in row\(s\) 6"),
    ],
)
def test_what_breaks_the_contract_is_named_with_its_row(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ContractViolation, match=message):
        read(tmp_path, tuple(line.replace(old, new) for line in LINES), contract())


def test_a_unit_is_never_cut_into_training_and_test(tmp_path: Path) -> None:
    night = (*LINES[:4], LINES[4].replace("day", "night"), *LINES[5:])
    with pytest.raises(
        ContractViolation, match=r"the column 'shift' has 2 values for the unit 'B' .*more than one for 1"
    ):
        read(tmp_path, night, contract(), columns=("pump", "shift"))
    assert len(read(tmp_path, night, contract())) == 4
    assert read(tmp_path, LINES, contract(), columns=("pump", "shift")).columns["shift"].tolist() == ["day"] * 4


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ContractViolation, match=r"does not say how \(\[data.windows\]\)"):
        read(tmp_path, LINES, contract().model_copy(update={"windows": None}))
    with pytest.raises(SettingsError, match="colour"):
        read(tmp_path, LINES, contract(), colour=1)
    decimals = tuple(line.replace(",", ";").replace(".", ",") for line in LINES)
    assert len(read(tmp_path, decimals, contract(), delimiter=";", decimal=",")) == 4
    monkeypatch.setattr(files, "MAX_ARRAY", 60)
    with pytest.raises(DataUnavailable, match=r"about 4 examples of \[2, 2\] take 64 bytes; at most 60"):
        read(tmp_path, LINES, contract())
