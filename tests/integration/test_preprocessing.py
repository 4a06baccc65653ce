"""A study with federated preprocessing, from the sites' statistics to the model's folder, in one process."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansa_client.data.breast_cancer import COLUMNS
from hansa_client.session import SiteState, handle
from hansa_client.simulated import divide, site_splits
from hansa_client.site_data import simulated_site
from hansa_client.work import Work
from hansa_common.errors import StorageError, TaskRefused
from hansa_common.feature_sums import FeatureSums, read
from hansa_common.messages import Message, StatisticsTask, TrainTask, decode, encode
from hansa_common.metrics import CountsKind
from hansa_common.plan import StudyPlan, parse_plan
from hansa_common.prepared import PREPROCESSING, Prepared
from hansa_server.exchange import Answer, Deadline
from hansa_server.outcome import results_of, write_results
from hansa_server.progress import Quiet
from hansa_server.store import RunFolder
from hansa_server.study import Study

NAMES = ("Bergen", "Hamburg", "Visby")
MASKS: dict[str, Any] = {"maximum_examples": 1_000, "secure_aggregation": {"coordinate_range": 8.0, "cohort": "fixed"}}


def changed_plan(plan: StudyPlan, sections: dict[str, Any]) -> StudyPlan:
    return parse_plan(plan.model_dump(mode="json", exclude_none=True) | sections)


@pytest.fixture
def plan() -> StudyPlan:
    return parse_plan(
        {
            "name": "tumours",
            "purpose": "A test.",
            "seed": 3,
            "model": {"name": "logistic"},
            "data": {
                "kind": "table",
                "label": "diagnosis",
                "classes": ["malignant", "benign"],
                "columns": [{"name": name} for name in COLUMNS],
            },
            "preprocessing": {"standardise": "federation"},
            "training": {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 1},
            "rounds": {"count": 2, "deadline_seconds": 60.0},
            "simulation": {"names": list(NAMES), "data": {"adapter": "breast_cancer"}, "holdout": 0.1},
        }
    )


class InProcess:
    """An exchange with simulated sites of this process."""

    def __init__(self) -> None:
        self.names: Mapping[int, str] = {}
        self.bytes_up = self.bytes_down = 0
        self.asked: list[str] = []
        self._states = [SiteState(index=index) for index in range(len(NAMES))]

    def nodes(self) -> Sequence[int]:
        return range(len(NAMES))

    def ask(self, requests: Sequence[tuple[int, Message]], *, deadline: Deadline, kind: CountsKind) -> Iterator[Answer]:
        for node, message in requests:
            self.asked.append(message.header.kind)
            assert deadline.left
            yield Answer(node=node, message=decode(handle(encode(message), self._states[node]), kind=kind))


def run(plan: StudyPlan, folder: RunFolder, *, baselines: bool = False) -> tuple[Study, InProcess]:
    study, exchange = Study(plan=plan, folder=folder, engine="test", observer=Quiet(), names=NAMES), InProcess()
    if baselines:
        study = Study(plan=plan, folder=folder, engine="test", observer=Quiet(), names=NAMES, baselines=True)
    study.run(exchange)
    return study, exchange


def pooled(plan: StudyPlan) -> np.ndarray:
    rows = np.concatenate([site_splits(plan, index).train for index in range(len(NAMES))])
    values: np.ndarray = divide(plan).dataset.features[rows].astype(np.float64)
    return values


def test_statistics_are_the_pooled_ones_and_prepare_every_evaluation(plan: StudyPlan, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    study, _exchange = run(plan, folder, baselines=True)
    results = results_of(study, run="run", status="completed", reason="")
    write_results(folder, study, results)
    values = pooled(plan)
    assert [one.mean for one in results.statistics] == pytest.approx(values.mean(axis=0), rel=1e-9)
    assert [one.deviation for one in results.statistics] == pytest.approx(values.std(axis=0), rel=1e-9)
    kept = Prepared.model_validate_json((folder.path / PREPROCESSING).read_bytes())
    assert np.abs(kept.apply(values.astype(np.float32)).mean(axis=0)).max() < 1e-5
    # without standardising, logistic regression on these columns is at .6 after as many steps
    assert results.final is not None
    assert results.final.weighted_mean is not None
    assert results.final.weighted_mean.accuracy is not None
    assert results.final.weighted_mean.accuracy > 0.9
    assert results.baselines is not None
    assert "by the statistics of all sites' training splits together" in (folder.path / "MODEL_CARD.md").read_text()


def test_under_masks_the_sum_is_the_same_and_no_site_is_seen(plan: StudyPlan, tmp_path: Path) -> None:
    opened, _exchange = run(plan, RunFolder.create(tmp_path / "open"))
    masked, exchange = run(changed_plan(plan, {"privacy": MASKS}), RunFolder.create(tmp_path / "masked"))
    assert opened.gathered is not None
    assert masked.gathered is not None
    assert masked.gathered.prepared == opened.gathered.prepared
    assert exchange.asked.index("setup") < exchange.asked.index("statistics-task") < exchange.asked.index("train")
    assert masked.parameters is not None
    assert opened.parameters is not None
    assert np.abs(masked.parameters - opened.parameters).max() < 1e-5


WORDS = ("fever", "cough", "pain", "rash", "fine", "well", "no")


@pytest.fixture
def notes(tmp_path: Path) -> StudyPlan:
    """Notes of three wards; "rash" is in a single one."""
    rng, lines = np.random.default_rng(7), ["ward,label,text"]
    for ward in NAMES:
        for number in range(40):
            words = [*rng.choice(WORDS[:3] if number % 2 else WORDS[4:], 3), "rare" if number == 1 else "today"]
            if ward == NAMES[0] and number == 3:
                words[0] = "rash"
            lines.append(f"{ward},{('well', 'ill')[number % 2]},{' '.join(words)}")
    path = tmp_path / "notes.csv"
    path.write_text("\n".join(lines))
    return parse_plan(
        {
            "name": "notes",
            "purpose": "A test.",
            "model": {"name": "gru", "vocabulary": 7, "hidden": 8, "embedding": 4},
            "data": {
                "kind": "array",
                "shape": [5],
                "minimum": 0,
                "maximum": 8,
                "classes": ["well", "ill"],
                "text": {"tokens": "words", "learn": "class", "vocabulary": list(WORDS)},
            },
            "preprocessing": {"vocabulary": 5, "minimum_count": 3},
            "training": {"learning_rate": 0.01, "epochs": 1},
            "rounds": {"count": 1, "deadline_seconds": 60.0},
            "simulation": {"partition": "column:ward", "data": {"adapter": "text", "path": str(path)}},
        }
    )


def statistics_of(plan: StudyPlan, index: int) -> tuple[FeatureSums, ...]:
    """Return what a site tells of its features."""
    task = Message(header=StatisticsTask(plan_digest=plan.digest()))
    sums = Work(plan, simulated_site(plan, index), "cpu").do(task).sums
    assert sums is not None
    return read(sums, plan.preprocessing, plan.data)


def test_a_patient_with_many_texts_is_one(notes: StudyPlan, tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    header, *lines = path.read_text().splitlines()
    patients = [n % 20 for n in range(len(lines))]
    written = [f"{n},{line}{' odd' * (n < 2)}" for n, line in zip(patients, lines, strict=True)]
    path.write_text("\n".join([f"patient,{header}", *written]))
    data = notes.data.model_dump(mode="json", exclude_none=True)
    data["text"]["vocabulary"].append("odd")  # in each text of two patients
    shares = {"validation": 0.01, "test": 0.05}
    model = notes.model.model_dump(mode="json", exclude_none=True) | {"options": {"vocabulary": 7}}
    changes = {"model": model, "data": data | {"maximum": 9.0}}
    by_patient = changed_plan(notes, changes | {"evaluation": shares | {"group": "patient"}})
    by_text = changed_plan(notes, changes | {"evaluation": shares})
    assert [sums.total > 0 for sums in statistics_of(by_patient, 0)[-2:]] == [True, False]
    assert [sums.total > 0 for sums in statistics_of(by_text, 0)[-2:]] == [True, True]


@pytest.mark.parametrize("engines", [2, 3])
def test_a_series_is_one_however_many_windows_it_gives(engines: int, tmp_path: Path) -> None:
    path, lines = tmp_path / "engines.csv", ["site,part,engine,mode,heat,worn"]
    for number in range(40):
        mode = 42.0 if number < engines else float(number % 2)
        part = "test" if number >= 36 else "train"
        lines += [f"{NAMES[0]},{part},{number},{mode},{number + row},{row % 2}" for row in range(9)]
    path.write_text("\n".join(lines))
    plan = parse_plan(
        {
            "name": "engines",
            "purpose": "A test.",
            "model": {"name": "gru"},
            "data": {
                "kind": "array",
                "shape": [4, 2],
                "classes": ["0", "1"],
                "windows": {"columns": ["mode", "heat"], "unit": "engine", "label": "worn"},
            },
            "preprocessing": {
                "standardise": "federation",
                "condition": {"column": "mode", "levels": [0.0, 1.0, 42.0]},
                "minimum_count": 3,
            },
            "training": {"learning_rate": 0.01, "epochs": 1},
            "evaluation": {"column": "part"},
            "rounds": {"count": 1},
            "simulation": {"partition": "column:site", "data": {"adapter": "windows", "path": str(path)}},
        }
    )
    found = statistics_of(plan, 0)
    assert all(sums.count for sums in found[:4])
    assert [sums.count > 0 for sums in found[4:]] == [engines >= 3] * 2


def test_a_vocabulary_is_chosen_by_all_sites_and_the_same_under_masks(notes: StudyPlan, tmp_path: Path) -> None:
    study, _exchange = run(notes, RunFolder.create(tmp_path / "plain"))
    sites = divide(notes)
    held = dict.fromkeys(WORDS, 0)
    for index in range(len(NAMES)):
        for place, word in enumerate(WORDS, start=2):
            texts = int((sites.dataset.features[site_splits(notes, index).train] == place).any(axis=1).sum())
            held[word] += texts if texts >= 3 else 0
    assert held["rash"] == 0
    assert study.gathered is not None
    kept = sorted(sorted(WORDS, key=lambda word: -held[word])[:5], key=WORDS.index)
    assert [WORDS[token - 2] for token in study.gathered.prepared.tokens] == kept
    shares = {one.name: one.mean for one in study.gathered.features}
    assert shares["'fever'"] == pytest.approx(held["fever"] / study.gathered.features[0].count)
    masked, exchange = run(changed_plan(notes, {"privacy": MASKS}), RunFolder.create(tmp_path / "masked"))
    assert masked.gathered is not None
    assert masked.gathered.prepared == study.gathered.prepared
    assert masked.gathered.features == study.gathered.features
    assert exchange.asked.index("setup") < exchange.asked.index("statistics-task")


@pytest.fixture
def pumps(tmp_path: Path) -> StudyPlan:
    """Pumps that swing about a level that depends on their speed; what comes next follows from two rows before."""
    rng, lines = np.random.default_rng(11), ["site,pump,speed,heat"]
    for number in range(24):
        phase, rows = rng.uniform(0, 2 * np.pi), np.arange(40)
        speed = 0 if number % 2 else 1
        heats = 50 + 30 * speed + 4 * np.sin(0.6 * rows + phase)
        lines += [f"{NAMES[number % 3]},{number},{speed},{heat:.5f}" for heat in heats]
    path = tmp_path / "pumps.csv"
    path.write_text("\n".join(lines))
    return parse_plan(
        {
            "name": "pumps",
            "purpose": "A test.",
            "model": {"name": "linear"},
            "data": {
                "kind": "array",
                "shape": [6, 2],
                "target": {"kind": "number", "scale": 10.0},
                "windows": {"columns": ["speed", "heat"], "unit": "pump", "label": "heat", "horizon": 1},
            },
            "preprocessing": {
                "standardise": "federation",
                "condition": {"column": "speed", "levels": [0, 1]},
                "minimum_count": 1,
            },
            "training": {"learning_rate": 0.1, "epochs": 4},
            "evaluation": {"group": "pump", "test": 0.3},
            "rounds": {"count": 6, "deadline_seconds": 60.0},
            "simulation": {"partition": "column:site", "data": {"adapter": "windows", "path": str(path)}},
        }
    )


def test_windows_are_prepared_within_conditions_and_a_forecast_is_learned(pumps: StudyPlan, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    study, _exchange = run(pumps, folder)
    dataset, train = divide(pumps).dataset, [site_splits(pumps, index).train for index in range(len(NAMES))]
    rows = dataset.features[np.concatenate(train)].astype(np.float64)
    assert study.gathered is not None
    for level in range(2):
        heats = rows[rows[..., 0] == level][:, 1]
        assert study.gathered.prepared.mean[2 * level + 1] == pytest.approx(heats.mean(), rel=1e-12)
    assert [one.name for one in study.gathered.features][:2] == ["speed at speed 0", "heat at speed 0"]
    masked, _exchange = run(
        changed_plan(pumps, {"privacy": MASKS, "rounds": {"count": 1}}), RunFolder.create(tmp_path / "masked")
    )
    assert masked.gathered is not None
    assert masked.gathered.prepared == study.gathered.prepared
    results = results_of(study, run="run", status="completed", reason="")
    assert results.final is not None
    assert results.final.weighted_mean is not None
    assert results.final.weighted_mean.rmse is not None
    assert dataset.targets is not None
    as_last = np.sqrt(np.mean((dataset.features[:, -1, 1] - dataset.targets) ** 2))
    assert results.final.weighted_mean.rmse < as_last / 3


def test_what_the_coordinator_tests_on_shares_no_series_with_a_site(pumps: StudyPlan) -> None:
    """Windows of one pump share rows: drawn one by one, the coordinator's would be known to the model."""
    simulation = pumps.simulation
    assert simulation is not None
    kept = simulation.model_dump(mode="json", exclude_none=True) | {"holdout": 0.2}
    sites = divide(changed_plan(pumps, {"simulation": kept}))
    series = sites.dataset.columns["pump"]
    held, trained = set(series[sites.holdout]), set(series[np.concatenate(sites.indices)])
    assert not held & trained
    assert len(held) == 5  # the fewest whole ones that are a fifth of 24
    assert len(sites.holdout) + sum(map(len, sites.indices)) == len(sites.dataset)


def test_a_resumed_study_goes_on_with_what_was_gathered(plan: StudyPlan, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    first, _exchange = run(plan, folder)
    again, exchange = run(plan, folder)
    assert again.gathered == first.gathered
    assert "statistics-task" not in exchange.asked
    with pytest.raises(StorageError, match="is of another plan"):
        run(changed_plan(plan, {"seed": 4}), folder)


def test_a_site_trains_only_with_the_preprocessing_of_the_plan(plan: StudyPlan) -> None:
    work = Work(plan, simulated_site(plan, 0), "cpu")
    parameters = np.zeros(work.parameters, np.float32)

    def train(prepared: Prepared | None) -> None:
        task = TrainTask(plan_digest=work.digest, round=2, attempt=1, prepared=prepared)
        work.do(Message(header=task, vector=parameters))

    right = Prepared(mean=(1.0,) * 30, deviation=(2.0,) * 30)
    for wrong in (None, Prepared(), Prepared(mean=(1.0,), deviation=(2.0,))):
        with pytest.raises(TaskRefused, match="does not bring the preprocessing"):
            train(wrong)
    before = work.do(Message(header=StatisticsTask(plan_digest=work.digest))).sums
    train(right)
    with pytest.raises(TaskRefused, match="other preprocessing than the task before"):
        train(Prepared(mean=(1.5,) * 30, deviation=(2.0,) * 30))
    after = work.do(Message(header=StatisticsTask(plan_digest=work.digest))).sums
    assert before is not None
    assert after is not None
    assert np.array_equal(before, after)  # of the data as they are, whatever was prepared meanwhile


def test_a_plan_without_preprocessing_lets_no_statistics_out(plan: StudyPlan) -> None:
    bare = changed_plan(plan, {"preprocessing": {}})
    work = Work(bare, simulated_site(bare, 0), "cpu")
    with pytest.raises(TaskRefused, match="asks for no statistics"):
        work.do(Message(header=StatisticsTask(plan_digest=work.digest)))
    task = TrainTask(plan_digest=work.digest, round=2, attempt=1, prepared=Prepared(mean=(0.0,), deviation=(1.0,)))
    with pytest.raises(TaskRefused, match="or brings some"):
        work.do(Message(header=task, vector=np.zeros(work.parameters, np.float32)))
