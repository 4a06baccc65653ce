"""What an algorithm adds to a site's gradients, against a loop whose loss has the term and torch its gradient."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hansa_client.data.source import Dataset
from hansa_client.data.split import Splits
from hansa_client.site_data import simulated_site
from hansa_client.training.corrections import Proximal
from hansa_client.training.supervised import SupervisedTraining
from hansa_client.work import Work
from hansa_common.errors import PlanError
from hansa_common.messages import InitialTask, Message, TrainTask
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan

EXAMPLES, FEATURES, CLASSES, BATCH = 30, 64, 10, 8


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def dataset() -> Dataset:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(EXAMPLES, FEATURES)).astype(np.float32)
    return Dataset(features=features, labels=rng.integers(0, CLASSES, EXAMPLES))


def site(plan: StudyPlan) -> SupervisedTraining:
    everybody = np.arange(EXAMPLES)
    splits = Splits(train=everybody, validation=everybody[:3], test=everybody[:3])
    return SupervisedTraining(plan=plan, dataset=dataset(), splits=splits, device=torch.device("cpu"))


def proximal_loop(start: Vector, anchor: Vector, weight: float, *, clip: float | None, seed: int) -> Vector:
    """Algorithm 2 of FedProx at one site: SGD on ``F(w) + mu / 2 * ||w - w_t||^2``, two epochs."""
    data, generator = dataset(), torch.Generator().manual_seed(seed)
    features, labels = torch.from_numpy(data.features), torch.from_numpy(data.labels)
    w, fixed = nn.Parameter(torch.from_numpy(start.copy())), torch.from_numpy(anchor.copy())
    for _ in range(2):
        order = torch.randperm(EXAMPLES, generator=generator)
        for chosen in (order[first : first + BATCH] for first in range(0, EXAMPLES, BATCH)):
            matrix, bias = w[: FEATURES * CLASSES].view(CLASSES, FEATURES), w[FEATURES * CLASSES :]
            loss = functional.cross_entropy(features[chosen] @ matrix.T + bias, labels[chosen])
            (gradient,) = torch.autograd.grad(loss + weight / 2 * ((w - fixed) ** 2).sum(), w)
            if clip is not None:
                gradient = gradient * min(1.0, clip / float(gradient.norm()))
            with torch.no_grad():
                w.sub_(gradient, alpha=0.1)
    return w.detach().numpy()


@pytest.mark.parametrize("clip", [None, 0.5])
def test_the_proximal_term_is_that_of_the_paper(make_plan: Callable[..., StudyPlan], clip: float | None) -> None:
    training = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": BATCH, "epochs": 2}
    plan = make_plan(replaced={"training": training | ({} if clip is None else {"gradient_clip": clip})})
    rng = np.random.default_rng(2)
    start, anchor = (rng.normal(size=(FEATURES + 1) * CLASSES).astype(np.float32) for _ in range(2))
    trained = site(plan).train(start, round_number=1, seed=5, correction=Proximal(anchor=anchor, weight=2.0))
    expected = proximal_loop(start, anchor, 2.0, clip=clip, seed=5)
    np.testing.assert_allclose(start + trained.delta, expected, atol=2e-5)
    assert np.abs(expected - proximal_loop(start, anchor, 0.0, clip=clip, seed=5)).max() > 1e-3


def update(plan: StudyPlan) -> Vector:
    work = Work(plan, simulated_site(plan, 1), "cpu")
    start = work.do(Message(header=InitialTask(plan_digest=plan.digest()))).vector
    reply = work.do(Message(header=TrainTask(plan_digest=plan.digest(), round=1, attempt=1), vector=start))
    assert reply.vector is not None
    return reply.vector


def test_fedprox_holds_the_sites_back_and_with_mu_0_is_fedavg_to_the_bit(
    make_plan: Callable[..., StudyPlan],
) -> None:
    plain = update(make_plan())
    none = update(make_plan(aggregation={"strategy": "fedprox", "mu": 0.0}))
    near = update(make_plan(aggregation={"strategy": "fedprox", "mu": 1.0}))
    assert none.tobytes() == plain.tobytes()
    assert np.linalg.norm(near) < 0.9 * np.linalg.norm(plain)


@pytest.mark.parametrize("options", [{"mu": -1.0}, {"mu": "x"}, {"nu": 1.0}])
def test_a_wrong_option_is_refused_when_the_plan_is_read(
    make_plan: Callable[..., StudyPlan], options: dict[str, object]
) -> None:
    with pytest.raises(PlanError, match="aggregation"):
        make_plan(aggregation={"strategy": "fedprox", **options})
