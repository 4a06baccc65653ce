"""Which procedure a site's work takes: nothing unprotected leaves where the plan protects persons."""

from collections.abc import Callable

import numpy as np
import pytest

from hansa_client.site_data import simulated_site
from hansa_client.training.private import PrivateTraining
from hansa_client.training.supervised import SupervisedTraining
from hansa_client.work import Work
from hansa_common.messages import BaselineTask, InitialTask, Message, TrainTask, Update
from hansa_common.metrics import of_classes
from hansa_common.plan import StudyPlan

DIFFERENTIAL = {
    "kind": "example",
    "clipping_bound": 1.0,
    "noise_multiplier": 2.0,
    "epsilon": 8.0,
    "delta": 1e-4,
    "sampling_rate": 0.05,
}


@pytest.fixture
def private_plan(make_plan: Callable[..., StudyPlan]) -> StudyPlan:
    training = {"optimizer": "sgd", "learning_rate": 0.5, "batch_size": 16, "steps": 4}
    return make_plan(privacy={"weights": "equal", "differential": DIFFERENTIAL}, replaced={"training": training})


def do(work: Work, task: object, vector: object = None) -> Message:
    return work.do(Message(header=task, vector=vector))  # type: ignore[arg-type]


def test_a_plan_that_protects_persons_trains_with_noise(private_plan: StudyPlan) -> None:
    work = Work(private_plan, simulated_site(private_plan, 1), "cpu")
    assert isinstance(work._procedure, PrivateTraining)
    digest = private_plan.digest()
    start = do(work, InitialTask(plan_digest=digest)).vector
    updates = [do(work, TrainTask(plan_digest=digest, round=1, attempt=1), start) for _ in range(2)]
    for update in updates:
        assert isinstance(update.header, Update)
        assert (update.header.num_examples, update.header.train_loss) == (1, 0.0)
        counts = of_classes(update.counts["validation"])
        assert (counts.num_examples, counts.loss_units, counts.has_histograms) == (0, 0, False)
    assert updates[0].vector is not None
    assert updates[1].vector is not None
    assert not np.array_equal(updates[0].vector, updates[1].vector)


def test_a_baseline_of_a_simulation_is_not_protected(private_plan: StudyPlan) -> None:
    work = Work(private_plan, simulated_site(private_plan, 1), "cpu")
    digest = private_plan.digest()
    start = do(work, InitialTask(plan_digest=digest)).vector
    for subject in ("local", "pooled"):
        task = BaselineTask.model_validate({"plan_digest": digest, "subject": subject})
        first, second = (do(work, task, start) for _ in range(2))
        for name, counts in first.counts.items():
            assert counts.num_examples > 0
            assert counts.mean_loss == second.counts[name].mean_loss  # no noise


def test_other_plans_train_as_ever(small_plan: StudyPlan) -> None:
    assert isinstance(Work(small_plan, simulated_site(small_plan, 1), "cpu")._procedure, SupervisedTraining)
