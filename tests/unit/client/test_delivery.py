"""The model that a site is given, and with an ensemble the versions that answer together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from hansa_client.delivery import keep_model, list_models
from hansa_common.errors import MessageError, TaskRefused
from hansa_common.messages import DeliverTask, Message, decode, encode
from hansa_common.models.ensemble import load_members
from hansa_common.parameters import ParameterSpec, Tensor, sha256_of
from hansa_common.plan import StudyPlan

SPEC = ParameterSpec(tensors=(Tensor(name="linear.weight", shape=(10, 64)), Tensor(name="linear.bias", shape=(10,))))
MODELS = [np.full(650, value, np.float32) for value in (3.0, 2.0, 1.0)]  # the newest first


def delivery(plan: StudyPlan, vectors: list[np.ndarray], **changes: Any) -> Message:
    header: dict[str, Any] = {
        "plan_digest": plan.digest(),
        "spec": SPEC,
        "card": "# Card",
        "sha256": sha256_of(vectors[0]),
    } | changes
    return decode(encode(Message(header=DeliverTask(**header), vector=np.concatenate(vectors))))


def test_the_last_model_and_the_versions_of_the_ensemble_are_kept(
    tmp_path: Path, make_plan: Callable[..., StudyPlan]
) -> None:
    plan = make_plan(evaluation={"ensemble": 3})
    keep_model(tmp_path, plan, "small-1", delivery(plan, MODELS))
    folder = tmp_path / "models" / "small-1"
    assert load_file(folder / "model.safetensors")["linear.bias"].tolist() == [3.0] * 10
    found = {path.name: load_file(path)["linear.weight"][0, 0] for path in sorted((folder / "versions").iterdir())}
    assert found == {"000001.safetensors": 1.0, "000002.safetensors": 2.0, "000003.safetensors": 3.0}
    assert [float(member["linear.bias"][0]) for member in load_members(folder / "versions")] == [1.0, 2.0, 3.0]
    assert any("the ensemble of the last 3 versions" in line for line in list_models(tmp_path))


@pytest.mark.parametrize("members", [None, 2])
def test_versions_of_another_plan_do_not_answer_with_those_of_a_study_of_that_name(
    tmp_path: Path, make_plan: Callable[..., StudyPlan], members: int | None
) -> None:
    plan = make_plan(evaluation={"ensemble": 3})
    keep_model(tmp_path, plan, "small-1", delivery(plan, MODELS))
    other = make_plan(evaluation={} if members is None else {"ensemble": members})
    keep_model(tmp_path, other, "small-1", delivery(other, MODELS[: members or 1]))
    left = sorted(path.name for path in (tmp_path / "models" / "small-1" / "versions").glob("*"))
    assert left == ([] if members is None else ["000002.safetensors", "000003.safetensors"])
    assert any("the ensemble of" in line for line in list_models(tmp_path)) == (members is not None)


def test_a_personal_model_of_an_earlier_plan_is_no_pair_with_a_study_of_that_name(
    tmp_path: Path, make_plan: Callable[..., StudyPlan]
) -> None:
    plan, other = make_plan(), make_plan(seed=8)
    own = tmp_path / "models" / "small-1" / "personal.safetensors"
    own.parent.mkdir(parents=True)
    own.write_bytes(save({"linear.bias": np.ones(10, np.float32)}, {"plan_digest": plan.digest()}))
    keep_model(tmp_path, plan, "small-1", delivery(plan, MODELS[:1]))
    assert own.exists()  # delivered again: it stays, whatever became of the state that it came from
    keep_model(tmp_path, other, "small-1", delivery(other, MODELS[:1]))
    assert not own.exists()


def test_without_an_ensemble_there_is_one_model(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan()
    keep_model(tmp_path, plan, "small-1", delivery(plan, MODELS[:1]))
    assert sorted(path.name for path in (tmp_path / "models" / "small-1").iterdir()) == [
        "MODEL_CARD.md",
        "model.safetensors",
    ]
    assert len(list(list_models(tmp_path))) == 2


def test_what_is_not_what_the_plan_asks_for_is_not_kept(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(evaluation={"ensemble": 3})
    for vectors in (MODELS[:1], MODELS[:2]):
        with pytest.raises(MessageError, match="another size than its tensors"):
            keep_model(tmp_path, plan, "small-1", delivery(plan, vectors))
    with pytest.raises(MessageError, match="not those that its digest is of"):
        keep_model(tmp_path, plan, "small-1", delivery(plan, MODELS, sha256=sha256_of(MODELS[1])))
    with pytest.raises(TaskRefused, match="another plan"):
        keep_model(tmp_path, make_plan(seed=8), "small-1", delivery(plan, MODELS))
    assert not (tmp_path / "models").exists()
