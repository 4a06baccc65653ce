"""What changes at the sites, through the study and the sites' own session, in one process: against the papers.

Every site's batch is its whole training split, so that an oracle needs no order of examples.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn
from torch.nn import functional

from hansa_client.session import SiteState, handle
from hansa_client.site_data import simulated_site
from hansa_client.training.flat_model import build_module
from hansa_client.work import Work
from hansa_common.messages import Message, OpenTask, TrainTask, Update, decode, encode
from hansa_common.metrics import ClassificationKind, CountsKind
from hansa_common.models import ARCHITECTURES, Architecture
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan
from hansa_common.seeds import derive_seed
from hansa_common.settings import Strict
from hansa_server import cohort
from hansa_server.exchange import Answer, Deadline
from hansa_server.outcome import results_of
from hansa_server.progress import Quiet
from hansa_server.results import Results, RoundResult
from hansa_server.store import RunFolder
from hansa_server.study import Study

Floats = npt.NDArray[np.float64]
SITES, STEPS, RATE = 4, 3, 0.5
NAMES = tuple(f"site-{number}" for number in range(1, SITES + 1))
FULL_BATCH = {"optimizer": "sgd", "learning_rate": RATE, "batch_size": 65_536, "epochs": STEPS}


class InProcess:
    """An ``Exchange`` whose nodes are the sites' session in this process."""

    names: Mapping[int, str] = {}

    def __init__(self) -> None:
        self.bytes_up = self.bytes_down = 0
        self.sizes: dict[str, set[int]] = {}
        self.bases: list[tuple[int, int, int]] = []  # round, node, basis
        self.refused: set[tuple[int, int]] = set()  # round, node: the update is trained, and lost on its way
        self._states = {node: SiteState(index=node - 1) for node in range(1, SITES + 1)}

    def nodes(self) -> Sequence[int]:
        return list(self._states)

    def ask(self, requests: Sequence[tuple[int, Message]], *, deadline: Deadline, kind: CountsKind) -> Iterator[Answer]:
        for node, message in requests:
            reply = decode(handle(encode(message), self._states[node]), kind=kind)
            for side in (message, reply):
                if side.vector is not None:
                    self.sizes.setdefault(side.header.kind, set()).add(side.vector.size)
            if isinstance(message.header, TrainTask):
                self.bases.append((message.header.round, node, message.header.basis))
                if (message.header.round, node) in self.refused:
                    yield Answer(node=node, failure="The update was lost.")
                    continue
            yield Answer(node=node, message=reply)


class Interrupted(Exception):
    """The process is gone."""


class DiesAfter(Quiet):
    """Ends the study when a round was closed."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def round_closed(self, result: RoundResult) -> None:
        if result.round == self._number:
            raise Interrupted


def run(plan: StudyPlan, path: Path, exchange: InProcess | None = None, *, observer: Quiet | None = None) -> Results:
    folder = RunFolder.open(path) if path.exists() else RunFolder.create(path)
    folder.save_plan(plan)
    study = Study(plan=plan, folder=folder, engine="test", observer=observer or Quiet(), names=NAMES)
    checkpoint = folder.load_checkpoint()
    if checkpoint is not None:
        study.restore(checkpoint)
    try:
        study.run(exchange or InProcess())
    finally:
        folder.close()
    assert study.parameters is not None
    np.save(path / "carried.npy", study.parameters)
    return results_of(study, run="", status="completed", reason="")


def carried(path: Path) -> Vector:
    vector: Vector = np.load(path / "carried.npy")
    return vector


def personal(path: Path, node: int) -> dict[str, Any]:
    return load_file(path / "sites" / str(node) / "personal.safetensors")


def examples(plan: StudyPlan, index: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return one site's training examples, as the model sees them."""
    work = Work(plan, simulated_site(plan, index), "cpu")
    loaded = work._procedure._splits["train"]  # type: ignore[attr-defined]
    return loaded.features.numpy().astype(np.float64), loaded.labels.numpy()


def softmax_gradient(w: Floats, features: Floats, labels: npt.NDArray[np.int64]) -> Floats:
    """Return the gradient of the mean cross-entropy of logistic regression, written out."""
    matrix, bias = w[:640].reshape(10, 64), w[640:]
    logits = features @ matrix.T + bias
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    errors = odds / odds.sum(axis=1, keepdims=True)
    errors[np.arange(len(labels)), labels] -= 1.0
    return np.concatenate([(errors.T @ features).ravel(), errors.sum(axis=0)]) / len(labels)


def initial(plan: StudyPlan) -> Floats:
    state = build_module(plan, derive_seed(plan.seed, "initial")).module.state_dict().values()
    return torch.cat([tensor.reshape(-1) for tensor in state]).numpy().astype(np.float64)


@pytest.fixture
def scaffold(make_plan: Callable[..., StudyPlan]) -> StudyPlan:
    return make_plan(
        replaced={"training": FULL_BATCH},
        aggregation={"strategy": "scaffold", "server_learning_rate": 0.7},
        rounds={"count": 6, "sites_per_round": 2},
    )


# --- SCAFFOLD ------------------------------------------------------------------------------------------------------


def scaffold_oracle(plan: StudyPlan, *, weighted: bool) -> tuple[Floats, Floats]:
    """Algorithm 1 of Karimireddy et al. with option II, in float64, with the cohorts that the study draws."""
    data = [examples(plan, index) for index in range(SITES)]
    x, c = initial(plan), np.zeros(650)
    own = [np.zeros(650) for _ in range(SITES)]
    for number in range(1, plan.rounds.count + 1):
        chosen = cohort.choose(NAMES, size=plan.rounds.sites_per_round, seed=plan.seed, round_number=number)
        moves, changes = [], []
        for i in (NAMES.index(name) for name in chosen):
            y = x.copy()
            for _ in range(STEPS):
                y -= RATE * (softmax_gradient(y, *data[i]) - own[i] + c)
            following = own[i] - c + (x - y) / (STEPS * RATE)
            moves.append(y - x)
            changes.append(following - own[i])
            own[i] = following
        weights = [len(data[NAMES.index(name)][1]) for name in chosen] if weighted else None
        x = x + 0.7 * np.average(moves, axis=0, weights=weights)
        c = c + len(chosen) / SITES * np.average(changes, axis=0, weights=weights)
    return x, c


def test_scaffold_is_algorithm_1_under_partial_participation(tmp_path: Path, scaffold: StudyPlan) -> None:
    exchange = InProcess()
    results = run(scaffold, tmp_path / "run", exchange)
    x, c = scaffold_oracle(scaffold, weighted=False)
    vector = carried(tmp_path / "run")
    np.testing.assert_allclose(vector[:650], x, atol=2e-5)
    np.testing.assert_allclose(vector[650:], c, atol=2e-5)
    assert np.abs(c).max() > 1e-3
    assert exchange.sizes == {
        "initial": {650},
        "train": {1300},
        "update": {1300},
        "evaluate": {650},
    }
    assert results.parameters == 650
    assert {basis for _round, _node, basis in exchange.bases} > {0, 1}


def test_scaffold_with_sites_that_weigh_by_their_examples(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(
        replaced={"training": FULL_BATCH},
        aggregation={"strategy": "scaffold", "server_learning_rate": 0.7, "weights": "examples"},
        simulation={"partition": "quantity:0.5"},
        rounds={"count": 4, "sites_per_round": 2},
    )
    run(plan, tmp_path / "run")
    x, c = scaffold_oracle(plan, weighted=True)
    vector = carried(tmp_path / "run")
    np.testing.assert_allclose(vector[:650], x, atol=2e-5)
    np.testing.assert_allclose(vector[650:], c, atol=2e-5)


def test_an_update_that_is_lost_leaves_the_site_where_its_last_counted_one_was(
    tmp_path: Path, make_plan: Callable[..., StudyPlan]
) -> None:
    """The lost round's state is not built on: the next task gives the update that it gives without the lost round."""
    plan = make_plan(
        replaced={"training": FULL_BATCH}, aggregation={"strategy": "scaffold"}, rounds={"count": 3, "quorum": 0.5}
    )
    exchange = InProcess()
    exchange.refused = {(2, 1)}
    run(plan, tmp_path / "run", exchange)
    assert [basis for number, node, basis in exchange.bases if node == 1] == [0, 1, 1]
    assert [basis for number, node, basis in exchange.bases if node == 2] == [0, 1, 2]
    files = sorted(path.name for path in (tmp_path / "run" / "sites" / "1").iterdir())
    assert files == ["round-000001.safetensors", "round-000003.safetensors"]


def test_a_hostile_start_with_control_variates_is_refused(scaffold: StudyPlan, tmp_path: Path) -> None:
    state = SiteState(index=0)
    task = OpenTask(plan=scaffold.model_dump_json(), folder=str(tmp_path))
    handle(encode(Message(header=task)), state)
    start = np.concatenate([initial(scaffold), np.full(650, 1e-3)]).astype(np.float32)
    header = TrainTask(plan_digest=scaffold.digest(), round=1, attempt=1)
    refused = decode(handle(encode(Message(header=header, vector=start)), state))
    assert refused.header.kind == "refusal"
    start[650:] = 0.0
    assert isinstance(
        decode(handle(encode(Message(header=header, vector=start)), state), kind=ClassificationKind(classes=10)).header,
        Update,
    )


# --- layers that stay ----------------------------------------------------------------------------------------------


class Normalised(Strict):
    """No options."""


def build_normalised(_options: Normalised, _contract: object) -> nn.Module:
    layers = OrderedDict(dense1=nn.Linear(64, 8), norm=nn.BatchNorm1d(8), relu=nn.ReLU(), dense2=nn.Linear(8, 10))
    return nn.Sequential(layers)


@pytest.fixture(autouse=True)
def _normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ARCHITECTURES, "_entries", dict(ARCHITECTURES._entries))
    ARCHITECTURES.register("normalised")(
        Architecture(options=Normalised, accepts=frozenset({"array"}), build=build_normalised)
    )


def divided_oracle(plan: StudyPlan, local: tuple[str, ...]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Federated averaging of all floating-point tensors but ``local``, with torch's modules and optimiser."""
    data = [examples(plan, index) for index in range(SITES)]
    sizes = np.array([len(labels) for _features, labels in data], np.float64)
    seed = derive_seed(plan.seed, "initial")
    modules = [build_module(plan, seed).module for _ in range(SITES)]
    for _ in range(plan.rounds.count):
        for module, (features, labels) in zip(modules, data, strict=True):
            optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
            for _ in range(STEPS):
                optimizer.zero_grad()
                outputs = module(torch.from_numpy(features.astype(np.float32)))
                functional.cross_entropy(outputs, torch.from_numpy(labels)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        states = [module.state_dict() for module in modules]
        shared = [name for name, tensor in states[0].items() if tensor.is_floating_point() and name not in local]
        common = {
            name: sum(w * state[name].double() for w, state in zip(sizes / sizes.sum(), states, strict=True))
            for name in shared
        }
        for module in modules:
            module.load_state_dict(common, strict=False)
    return common, [module.state_dict() for module in modules]


NORM = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")


@pytest.mark.parametrize(
    ("section", "model", "local", "travels"),
    [
        ({"method": "fedbn"}, {"name": "normalised"}, NORM, 64 * 8 + 8 + 8 * 10 + 10),
        ({"method": "fedper"}, {"name": "normalised"}, ("dense2.weight", "dense2.bias"), 64 * 8 + 8 + 4 * 8),
        ({"method": "fedper", "local": ["dense1", "norm"]}, {"name": "normalised"}, None, 8 * 10 + 10),
    ],
)
def test_what_stays_at_a_site_is_that_of_the_paper_and_never_travels(
    tmp_path: Path,
    make_plan: Callable[..., StudyPlan],
    section: dict[str, Any],
    model: dict[str, Any],
    local: tuple[str, ...] | None,
    travels: int,
) -> None:
    plan = make_plan(personalisation=section, replaced={"training": FULL_BATCH, "model": model})
    exchange = InProcess()
    results = run(plan, tmp_path / "run", exchange)
    common, sites = divided_oracle(plan, local or (*NORM, "dense1.weight", "dense1.bias"))
    assert {size for sizes in exchange.sizes.values() for size in sizes} == {travels}
    assert results.parameters == travels == len(carried(tmp_path / "run"))
    for node, expected in enumerate(sites, start=1):
        found = personal(tmp_path / "run", node)
        assert set(found) == {name for name, tensor in expected.items() if tensor.is_floating_point()}
        for name, values in found.items():
            np.testing.assert_allclose(values, expected[name], atol=5e-5, err_msg=name)
    one, other = (personal(tmp_path / "run", node) for node in (1, 2))
    assert max(np.abs(one[name] - other[name]).max() for name in set(one) - set(common)) > 1e-3
    assert all(site.personal is not None for site in results.sites)


# --- a model beside the common one ---------------------------------------------------------------------------------


def fedavg_oracle(plan: StudyPlan, *, pull: float) -> tuple[Floats, list[Floats]]:
    """Algorithm 1 of Ditto around federated averaging: the common model, and each site's own."""
    data = [examples(plan, index) for index in range(SITES)]
    sizes = np.array([len(labels) for _features, labels in data], np.float64)
    w = initial(plan)
    own = [w.copy() for _ in range(SITES)]
    for _ in range(plan.rounds.count):
        local = [w.copy() for _ in range(SITES)]
        for k in range(SITES):
            for _ in range(STEPS):
                local[k] -= RATE * softmax_gradient(local[k], *data[k])
                own[k] -= RATE * (softmax_gradient(own[k], *data[k]) + pull * (own[k] - w))
        w = np.average(local, axis=0, weights=sizes)
    return w, own


def flat(tensors: dict[str, Any]) -> Floats:
    (weight,), (bias,) = (
        [values for name, values in tensors.items() if name.endswith(end)] for end in ("weight", "bias")
    )
    return np.concatenate([weight.ravel(), bias]).astype(np.float64)


def test_ditto_is_algorithm_1(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(personalisation={"method": "ditto", "pull": 0.3}, replaced={"training": FULL_BATCH})
    results = run(plan, tmp_path / "run")
    common, own = fedavg_oracle(plan, pull=0.3)
    np.testing.assert_allclose(carried(tmp_path / "run"), common, atol=2e-5)
    for node, expected in enumerate(own, start=1):
        np.testing.assert_allclose(flat(personal(tmp_path / "run", node)), expected, atol=2e-5)
    assert np.abs(own[0] - common).max() > 1e-2
    assert [site.personal for site in results.sites] != [site.federated for site in results.sites]


def test_fine_tuning_goes_on_from_the_last_model(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    section = {"method": "finetune", "epochs": 2, "learning_rate": 0.2}
    plan = make_plan(personalisation=section, replaced={"training": FULL_BATCH})
    run(plan, tmp_path / "run")
    common, _own = fedavg_oracle(plan, pull=0.0)
    for node in range(1, SITES + 1):
        expected, data = common.copy(), examples(plan, node - 1)
        for _ in range(2):
            expected -= 0.2 * softmax_gradient(expected, *data)
        np.testing.assert_allclose(flat(personal(tmp_path / "run", node)), expected, atol=2e-5)


# --- steps that differ ---------------------------------------------------------------------------------------------


def test_fednova_with_a_proximal_term_is_equation_6(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    """Sites of other sizes take other numbers of steps: batches of all examples would take as many everywhere."""
    mu, rate, weight = 0.8, 0.5, {"batch_size": 400, "epochs": 2}
    plan = make_plan(
        aggregation={"strategy": "fednova", "mu": mu},
        simulation={"partition": "quantity:0.7"},
        replaced={"training": {"optimizer": "sgd", "learning_rate": rate} | weight},
    )
    run(plan, tmp_path / "run")
    local = fedprox_deltas(plan)
    x = initial(plan)
    for number in range(1, plan.rounds.count + 1):
        deltas, steps, sizes = local(number, x)
        p = np.array(sizes) / sum(sizes)
        a = np.array([sum((1 - rate * mu) ** (tau - j) for j in range(1, tau + 1)) for tau in steps])
        x = x + (p @ a) * sum(share * delta / length for share, delta, length in zip(p, deltas, a, strict=True))
        assert len(set(steps)) > 1
    np.testing.assert_allclose(carried(tmp_path / "run"), x, atol=2e-5)


def fedprox_deltas(plan: StudyPlan) -> Callable[[int, Floats], tuple[list[Floats], list[int], list[int]]]:
    """Return what the same sites train with FedProx, whose oracle is elsewhere: deltas, steps and sizes by round."""
    aggregation = plan.aggregation.model_copy(update={"strategy": "fedprox"})
    other = plan.model_copy(update={"aggregation": aggregation})
    states = [SiteState(index=index) for index in range(SITES)]
    for state in states:
        handle(encode(Message(header=OpenTask(plan=other.model_dump_json()))), state)

    def train(number: int, model: Floats) -> tuple[list[Floats], list[int], list[int]]:
        task = TrainTask(plan_digest=other.digest(), round=number, attempt=1)
        message = Message(header=task, vector=model.astype(np.float32))
        replies = [decode(handle(encode(message), state), kind=ClassificationKind(classes=10)) for state in states]
        headers = [reply.header for reply in replies if isinstance(reply.header, Update)]
        deltas = [reply.vector.astype(np.float64) for reply in replies if reply.vector is not None]
        return deltas, [header.steps for header in headers], [header.num_examples for header in headers]

    return train


# --- killed --------------------------------------------------------------------------------------------------------

STUDIES: dict[str, dict[str, Any]] = {
    "scaffold": {"aggregation": {"strategy": "scaffold"}, "rounds": {"count": 4, "sites_per_round": 3}},
    "fedbn": {"personalisation": {"method": "fedbn"}, "replaced": {"model": {"name": "normalised"}}},
    "fedper": {"personalisation": {"method": "fedper"}, "replaced": {"model": {"name": "normalised"}}},
    "ditto": {"personalisation": {"method": "ditto"}},
    "finetune": {"personalisation": {"method": "finetune"}},
    "topk": {"transport": {"codec": "topk", "fraction": 0.1}, "rounds": {"count": 4, "sites_per_round": 3}},
    "topk, fedbn": {
        "transport": {"codec": "topk", "fraction": 0.05},
        "personalisation": {"method": "fedbn"},
        "replaced": {"model": {"name": "normalised"}},
    },
}


@pytest.mark.parametrize(
    "name", [name if "," not in name else pytest.param(name, marks=pytest.mark.slow) for name in STUDIES]
)
def test_a_study_that_is_killed_goes_on_to_the_same_bits(
    tmp_path: Path, make_plan: Callable[..., StudyPlan], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once after a checkpoint, and once before one: the sites have trained a round then that was never counted."""
    plan = make_plan(**({"rounds": {"count": 4}} | STUDIES[name]))
    run(plan, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(plan, tmp_path / "killed", observer=DiesAfter(1))
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", _die)
        with pytest.raises(Interrupted):
            run(plan, tmp_path / "killed")
    exchange = InProcess()
    run(plan, tmp_path / "killed", exchange)
    assert min(number for number, _node, _basis in exchange.bases) == 2
    assert carried(tmp_path / "killed").tobytes() == carried(tmp_path / "whole").tobytes()
    for path in sorted((tmp_path / "whole" / "sites").rglob("*.safetensors")):
        other = tmp_path / "killed" / path.relative_to(tmp_path / "whole")
        found, expected = load_file(other), load_file(path)
        assert {name: values.tobytes() for name, values in found.items()} == {
            name: values.tobytes() for name, values in expected.items()
        }, path.name


def _die(_folder: RunFolder, _checkpoint: object) -> None:
    raise Interrupted


def test_a_study_that_needs_no_state_keeps_none(tmp_path: Path, small_plan: StudyPlan) -> None:
    exchange = InProcess()
    run(small_plan, tmp_path / "run", exchange)
    assert not (tmp_path / "run" / "sites").exists()
    assert {basis for _round, _node, basis in exchange.bases} == {0}
