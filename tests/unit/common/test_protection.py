"""What the masks of a round are bound to: all sites must have seen the same, or nobody reads their sum."""

import numpy as np
import pytest

from hansa_common.messages import EvaluateTask, StatisticsTask, TrainTask
from hansa_common.parameters import sha256_of
from hansa_common.prepared import Prepared
from hansa_common.protection import seen_digest

MODEL = np.linspace(-1.0, 1.0, 7, dtype=np.float32)
HONEST = Prepared(mean=(0.0, 1.0), deviation=(1.0, 2.0))
DEAD = Prepared(low=(5.0, 5.0), high=(5.0, 5.0))  # every example is the same
DIGEST = "ab" * 32


@pytest.mark.parametrize("other", [DEAD, Prepared(mean=(0.0, 1.0), deviation=(1.0, 2.0000000000000004)), None])
def test_what_is_done_to_the_features_is_seen_like_the_model(other: Prepared | None) -> None:
    task = TrainTask(plan_digest=DIGEST, round=1, attempt=1, prepared=HONEST)
    assert seen_digest(task, MODEL) == seen_digest(task.model_copy(update={"basis": 3}), MODEL.copy())
    assert seen_digest(task, MODEL) != seen_digest(task.model_copy(update={"prepared": other}), MODEL)
    assert seen_digest(task, MODEL) != seen_digest(task, MODEL + 1.0)


def test_without_preprocessing_it_is_the_hash_of_the_model() -> None:
    assert seen_digest(EvaluateTask(plan_digest=DIGEST), MODEL).hex() == sha256_of(MODEL)
    nothing = np.zeros(0, np.float32)
    assert seen_digest(StatisticsTask(plan_digest=DIGEST), None).hex() == sha256_of(nothing)
