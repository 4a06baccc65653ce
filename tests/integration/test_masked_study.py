"""Studies whose updates are masked, between processes: the model is that of the same study in the open."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.chaos.federation import Federation
from tests.chaos.supervisor import Supervisor
from tests.conftest import small_study

from hansa_common.audit import read
from hansa_common.failpoints import MASKING, VARIABLE
from hansa_common.plan import StudyPlan, dump_plan, parse_plan
from hansa_server.engines.engine import Machine
from hansa_server.progress import Quiet
from hansa_server.results import Results
from hansa_server.simulation import simulate
from hansa_server.store import RunFolder

SITES = ("Bergen", "Hamburg", "Lübeck", "Visby")
MASKS: dict[str, Any] = {
    "maximum_examples": 2_000,
    "secure_aggregation": {"coordinate_range": 4.0, "cohort": "changing"},
}
Make = Callable[..., StudyPlan]


def run(plan: StudyPlan, folder: Path, engine: Any = "local") -> Results:
    run_folder = RunFolder.create(folder)
    run_folder.save_plan(plan)
    try:
        return simulate(plan, run_folder, machine=Machine(engine=engine, workers=2), observer=Quiet())
    finally:
        run_folder.close()


def weights(folder: Path) -> np.ndarray:
    return np.concatenate([values.ravel() for values in load_file(folder / "model.safetensors").values()])


@pytest.fixture(scope="module")
def open_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("open") / "run"
    run(parse_plan(small_study()), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_masked_study_gives_the_open_ones_model_and_tells_no_sites_figures(
    tmp_path: Path, open_run: Path, make_plan: Make, engine: str
) -> None:
    results = run(make_plan(privacy=MASKS), tmp_path / "run", engine)
    assert np.abs(weights(tmp_path / "run") - weights(open_run)).max() < 3 * 1e-7
    plain = Results.model_validate_json((open_run / "metrics.json").read_bytes())
    assert results.final is not None
    assert plain.final is not None
    masked, shown = results.final.weighted_mean, plain.final.weighted_mean
    assert masked is not None
    assert shown is not None
    assert (masked.num_examples, masked.accuracy, masked.f1) == (shown.num_examples, shown.accuracy, shown.f1)
    assert masked.loss == pytest.approx(shown.loss, rel=1e-5)
    assert masked.roc_auc == pytest.approx(shown.roc_auc, rel=1e-4)
    assert results.final.confusion == plain.final.confusion
    assert [entry.incoming.weighted_mean_accuracy for entry in results.rounds] == [
        entry.incoming.weighted_mean_accuracy for entry in plain.rounds
    ]
    assert results.final.worst_site is None
    assert results.final.site_mean is None
    assert all(site.federated is None and not site.class_counts for site in results.sites)
    assert all(set(site.examples) == {"train"} for site in results.sites)  # the weight, which the server must know
    assert all(site.accuracy is None and site.train_loss is None for entry in results.rounds for site in entry.sites)
    assert results.protection is not None
    assert results.protection.masks is not None
    assert results.protection.masks.threshold == 3


@pytest.mark.slow
def test_16_bits_round_more_coarsely_and_a_site_counts_for_no_more_than_the_plan_says(
    tmp_path: Path, open_run: Path, make_plan: Make
) -> None:
    masks = MASKS["secure_aggregation"] | {"ring_bits": 16}
    run(make_plan(privacy={"maximum_examples": 2_000, "secure_aggregation": masks}), tmp_path / "narrow")
    apart = np.abs(weights(tmp_path / "narrow") - weights(open_run)).max()
    assert 1e-6 < apart < 0.05


def _events(folder: Path, event: str) -> list[str]:
    return [str(entry.details["task"]) for entry in read(folder / "journal.jsonl") if entry.event == event]


@pytest.mark.slow
def test_killed_in_every_phase_a_masked_study_comes_to_its_end_and_no_site_answers_twice(
    tmp_path: Path, make_federation: Callable[..., Federation], make_plan: Make
) -> None:
    """The study's process dies after each of its decisions; a site's agent when its masked update is stored.

    The site has then lost the secrets of its next setup: it sits the next round out, and the others unmask without it.
    """
    plan = make_plan(
        privacy=MASKS, rounds={"count": 6, "quorum": 0.75, "deadline_seconds": 60.0}, replaced={"simulation": None}
    )
    path = tmp_path / "small.toml"
    path.write_text(dump_plan(plan))
    federation = make_federation(SITES)
    study = federation.propose(path)
    for site in federation.sites.values():
        federation.wait_for((site.folder / "proposals" / f"{study}.json").exists, "the proposal")
    marks = federation.path / "marks"
    marks.mkdir()
    armed = ",".join(f"{name}@2:{marks / name}" for name in MASKING)  # a new process counts anew
    hit = federation.sites["Bergen"]
    federation.server.stop()
    hit.agent.stop()
    hit.agent.environment[VARIABLE] = f"site.reply.after-write@7:{marks / 'site'}"
    with Supervisor(federation, {VARIABLE: armed}):
        federation.approve(study)
        row = federation.wait_ended(study)
    assert row.state == "completed", row.reason
    assert sorted(mark.name for mark in marks.iterdir()) == sorted([*MASKING, "site"])
    results = Results.model_validate_json((federation.run_folder(study) / "metrics.json").read_bytes())
    assert len(results.rounds) == 6
    missed = [entry.round for entry in results.rounds if entry.missing]
    assert 1 <= len(missed) <= 2
    assert all(set(entry.missing) <= {"Bergen"} for entry in results.rounds)
    assert results.final is not None
    assert results.final.weighted_mean is not None
    assert (results.final.weighted_mean.accuracy or 0.0) > 0.85
    for site in federation.sites.values():
        left = _events(site.folder, "reply-released")
        assert len(left) == len(set(left))
        assert (site.folder / "models" / study / "model.safetensors").exists()
        assert "the last model" in site.hansa("figures")
