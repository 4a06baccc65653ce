"""The benchmarks of CIFAR-10 by the code of the whole set: on 60 records, and on the subset where it is there."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from benchmarks import __main__ as command
from benchmarks import cifar10, cifar10_data, niid
from benchmarks.cifar10_data import Cifar10
from benchmarks.limits import Limits
from benchmarks.process import HANSA

from hansa_client.simulated import divide
from hansa_common.plan import StudyPlan, read_plan
from hansa_common.simulation_plan import Partition
from hansa_server.engines.engine import Machine
from hansa_server.progress import Quiet
from hansa_server.simulation import simulate
from hansa_server.store import RunFolder

RNG = np.random.default_rng(1)
PIXELS = RNG.integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
LABELS = np.arange(60, dtype=np.uint8) % 10


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """A folder as the authors' archive unpacks it, with ten records a batch."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for number, name in enumerate(names):
        ours = slice(10 * number, 10 * number + 10)
        records = np.concatenate([LABELS[ours, None], PIXELS[ours].reshape(10, 3072)], axis=1)
        assert records.shape == (10, 3073)
        (folder / name).write_bytes(records.tobytes())
    return tmp_path


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command does is done here: a process takes seconds to import all."""

    def call(command: Sequence[str]) -> None:
        match command[len(HANSA) :]:
            case ["simulate", study, "--out", out]:
                folder = RunFolder.create(Path(out))
                folder.save_plan(read_plan(Path(study)))
            case ["simulate", "--resume", out]:
                folder = RunFolder.open(Path(out))
            case other:
                raise AssertionError(other)
        simulate(folder.load_plan(), folder, machine=Machine(engine="inline"), observer=Quiet())
        folder.close()

    monkeypatch.setattr(niid, "run_process", call)


def small(plan: StudyPlan) -> StudyPlan:
    data = plan.data.model_copy(update={"minimum_examples": 3})
    return plan.model_copy(update={"data": data})


def test_the_binary_version_is_read_as_published(binary: Path) -> None:
    for place in (binary, binary / "cifar-10-batches-bin"):
        data = cifar10_data.find(place)
        assert data == Cifar10(path=place, is_whole=True)
        dataset = divide(small(niid.plan_of(data, "dirichlet", "fedavg", rounds=1, sites=2))).dataset
        assert np.array_equal(dataset.features, PIXELS[:50].transpose(0, 2, 3, 1))
        assert np.array_equal(dataset.labels, LABELS[:50])


@pytest.mark.usefixtures("in_this_process")
def test_a_run_ends_in_the_accuracy_on_the_official_test_images(binary: Path, tmp_path: Path) -> None:
    """Oracle: the saved model as NIID-Bench's network, by hand."""
    import torch
    from safetensors.torch import load_file
    from torch.nn import functional

    data = cifar10_data.find(binary)
    assert data is not None
    plan = small(niid.plan_of(data, "quantity", "fedavg", rounds=1, sites=2, partition="iid"))
    run = tmp_path / "runs" / "one"
    found = niid.accuracy_of(plan, data, run)
    weights = load_file(run / "model.safetensors")
    values = torch.from_numpy(PIXELS[50:]).float() / 255
    for name in ("conv1", "conv2"):
        values = functional.conv2d(values, weights[f"{name}.weight"], weights[f"{name}.bias"])
        values = functional.max_pool2d(functional.relu(values), 2)
    values = values.flatten(1)
    for name in ("dense1", "dense2"):
        values = functional.relu(functional.linear(values, weights[f"{name}.weight"], weights[f"{name}.bias"]))
    values = functional.linear(values, weights["dense3.weight"], weights["dense3.bias"])
    assert found == pytest.approx(100 * float((values.argmax(1).numpy() == LABELS[50:]).mean()))

    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"status": "stopped"}))
    assert niid.accuracy_of(plan, data, run) == found  # resumed
    assert json.loads((run / "metrics.json").read_text())["status"] == "completed"
    before = (run / "model.safetensors").stat().st_mtime_ns
    assert niid.accuracy_of(plan, data, run) == found
    assert (run / "model.safetensors").stat().st_mtime_ns == before  # read, not trained again
    other = plan.model_copy(update={"seed": 5})
    with pytest.raises(RuntimeError, match="holds the run of another plan"):
        niid.accuracy_of(other, data, run)


def test_every_cell_is_a_plan_with_the_published_setting() -> None:
    data = Cifar10(path=Path("somewhere"), is_whole=True)
    for setting, row in niid.SETTINGS.items():
        assert set(row.published) == set(niid.METHODS)
        for method in niid.METHODS:
            plan = niid.plan_of(data, setting, method, rounds=row.rounds)
            assert plan.simulation is not None
            assert (plan.training.batch_size, plan.training.epochs) == (64, 10)
            assert plan.simulation.sites == row.sites
    kinds = [Partition.parse(row.partition).kind for row in niid.SETTINGS.values()]
    assert kinds == ["dirichlet", "shards", "quantity", "dirichlet"]
    hundred = niid.SETTINGS["hundred-sites"]
    assert (hundred.sites, hundred.per_round, hundred.rounds) == (100, 10, 500)


def test_what_is_left_out_is_named() -> None:
    limits = Limits(partitions=("quantity",), strategies=("fednova", "fedavg"))
    assert limits.chosen(niid.SETTINGS, niid.METHODS) == (["quantity"], ["fedavg", "fednova"])
    assert Limits().chosen(cifar10.PARTITIONS, ["fedavg"]) == (["iid", "dirichlet"], ["fedavg"])
    with pytest.raises(SystemExit, match="--partition: there is no shards here; there are: dirichlet, two-labels"):
        Limits(partitions=("shards",)).chosen(niid.SETTINGS, niid.METHODS)


def test_without_data_the_message_names_the_binary_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HANSA_TEST_DATA", str(tmp_path))
    for run in (niid.run, cifar10.run):
        run(1, Limits())
        said = capsys.readouterr().out
        assert "cifar-10-batches-bin" in said
        assert "data_batch_1.bin" in said


@pytest.mark.slow
@pytest.mark.needs_data
@pytest.mark.parametrize("name", ["niid", "cifar10"])
def test_the_command_prints_its_table_on_the_subset(
    name: str, test_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HANSA_TEST_DATA", os.environ.get("HANSA_TEST_DATA", ""))  # put back afterwards
    monkeypatch.setattr("benchmarks.__main__.use_cores", lambda _count: None)
    partition = {"niid": "two-labels", "cifar10": "dirichlet"}[name]
    options = ["--repeat", "1", "--rounds", "1", "--partition", partition, "--strategy", "fedavg"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", name, "--data", str(test_data), *options])
    command.main()
    said = capsys.readouterr().out
    assert f"10,000 training and 2,000 test images of CIFAR-10{'' if name == 'cifar10' else ' (published'}" in said
    assert "federated, official test images" in said or "(49.8)" in said
