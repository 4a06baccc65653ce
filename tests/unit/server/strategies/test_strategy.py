"""What holds of every strategy: it resumes bit for bit, refuses another's state, and leaves alone what it is given."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tests.unit.server.strategies.played import Options, curvatures, made, rounds, size_of, start, stepped

from hansa_common.parameters import ParameterSpec, Tensor
from hansa_common.strategies import STRATEGIES as DECIDED
from hansa_server.store import Checkpoint, Progress, RunFolder
from hansa_server.strategies import STRATEGIES, Contribution, Strategy

OPTIONS: dict[str, Options] = {
    "centered_clipping": {"radius": 3.0},
    "fltrust": {"root": "site-0"},
    "multi_krum": {"hostile": 1},
    "norm_bound": {"bound": 2.0},
    "trimmed_mean": {"hostile": 0.2},
}
"""What a strategy cannot do without; each is tried with its other options, too."""
VARIED: list[tuple[str, Options]] = [
    *((name, OPTIONS.get(name, {})) for name in sorted(STRATEGIES)),
    ("fedavgm", {"momentum": 0.5, "server_learning_rate": 0.7}),
    ("fedadam", {"beta1": 0.5, "beta2": 0.9, "tau": 1e-8, "server_learning_rate": 0.01}),
    ("fedadagrad", {"beta1": 0.5}),
    ("newton", {"ridge": 0.1}),
    ("qffl", {"q": 3.0}),
    ("afl", {"lambda_learning_rate": 1.0}),
    ("centered_clipping", {"radius": 0.5, "iterations": 3, "hostile": 2, "nnm": True}),
    ("trimmed_mean", {"hostile": 2, "nnm": True}),
    ("fltrust", {"root": "site-0", "hostile": 1, "nnm": True}),
]


def rounds_for(name: str, count: int) -> Iterator[list[Contribution]]:
    return curvatures(count) if DECIDED[name].second_order else rounds(count)


def checkpointed(strategy: Strategy, folder: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Send a strategy's state through the file of a checkpoint."""
    progress = Progress(
        plan_digest="",
        simulation_digest="",
        engine="local",
        spec=ParameterSpec(tensors=(Tensor(name="w", shape=(1,)),)),
        rounds=(),
        started_at="",
        setup_seconds=0.0,
        rounds_seconds=0.0,
        bytes_up=0,
        bytes_down=0,
    )
    run = RunFolder(folder)
    run.save_checkpoint(Checkpoint(progress=progress, parameters=start(1), strategy=strategy.state()))
    loaded = run.load_checkpoint()
    assert loaded is not None
    return dict(loaded.strategy)


@pytest.mark.parametrize(("name", "options"), VARIED, ids=[f"{name} {options or ''}" for name, options in VARIED])
def test_every_strategy_comes_back_from_its_checkpoint_bit_for_bit(name: str, options: Options, tmp_path: Path) -> None:
    """One goes through all rounds; the other is killed after each, and made anew from what the file has."""
    whole = made(name, options)
    straight = resumed = start(size_of(name))
    seen: set[bytes] = set()
    state: dict[str, npt.NDArray[np.float64]] = {}
    for updates in rounds_for(name, 5):
        straight = stepped(whole, straight, updates)
        again = made(name, options)
        again.restore(state)
        resumed = stepped(again, resumed, updates)
        assert resumed.tobytes() == straight.tobytes()
        state = checkpointed(again, tmp_path)
        seen.add(straight.tobytes())
    assert len(seen) == 5


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_no_strategy_takes_another_s_state(name: str) -> None:
    with pytest.raises(RuntimeError, match="the checkpoint has"):
        made(name, OPTIONS.get(name)).restore({"another's": np.zeros(3)})


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_no_strategy_changes_what_it_is_given(name: str) -> None:
    parameters = start(size_of(name))
    (updates,) = rounds_for(name, 1)
    before = [parameters.tobytes(), *(update.delta.tobytes() for update in updates)]
    for vector in (parameters, *(update.delta for update in updates)):
        vector.flags.writeable = False
    stepped(made(name, OPTIONS.get(name)), parameters, updates)
    assert before == [parameters.tobytes(), *(update.delta.tobytes() for update in updates)]
