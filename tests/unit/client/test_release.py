import numpy as np
import pytest

from hansa_client.release import Release
from hansa_common.errors import ReleaseRefused
from hansa_common.messages import Update, decode
from hansa_common.metrics import ClassificationCounts
from hansa_common.parameters import CHUNK, Vector

COUNTS = ClassificationCounts.of(np.full((2, 2), 0.5, np.float32), np.array([0, 1]), np.ones(2), histograms=False)


def header() -> Update:
    return Update(
        plan_digest="ab" * 32,
        round=1,
        attempt=1,
        site="a",
        num_examples=2,
        train_loss=0.5,
        steps=1,
        seconds=1.0,
        train_seconds=1.0,
    )


def test_a_good_update_leaves_and_is_counted() -> None:
    release = Release(parameters=3, max_bytes=10_000)
    delta = np.array([1, 2, 3], np.float32)
    envelope = release.update(header(), delta, COUNTS)
    message = decode(envelope, classes=2)
    assert message.vector is not None
    assert message.vector.tolist() == [1, 2, 3]
    assert release.bytes_released == envelope.num_bytes > 12
    release.update(header(), delta, COUNTS)
    assert release.bytes_released == 2 * envelope.num_bytes


@pytest.mark.parametrize(
    "delta",
    [
        np.array([1, np.nan, 3], np.float32),
        np.array([1, np.inf, 3], np.float32),
        np.array([1, -np.inf, 3], np.float32),
        np.array([1, 2], np.float32),
        np.array([[1, 2, 3]], np.float32),
        np.array([1, 2, 3], np.float64),
        np.array([1, 2, 3], np.int64),
    ],
    ids=["NaN", "inf", "-inf", "short", "matrix", "float64", "int64"],
)
def test_nothing_else_leaves(delta: Vector) -> None:
    release = Release(parameters=3, max_bytes=10_000)
    with pytest.raises(ReleaseRefused):
        release.update(header(), delta, COUNTS)
    assert release.bytes_released == 0


@pytest.mark.parametrize("position", [0, CHUNK - 1, CHUNK, 2 * CHUNK + 4])
def test_one_nan_anywhere_in_a_large_update_is_found(position: int) -> None:
    delta = np.zeros(2 * CHUNK + 5, np.float32)
    delta[position] = np.nan
    with pytest.raises(ReleaseRefused, match="NaN"):
        Release(parameters=delta.size, max_bytes=1 << 30).update(header(), delta, COUNTS)


def test_a_reply_beyond_the_limit_does_not_leave() -> None:
    release = Release(parameters=3, max_bytes=100)
    with pytest.raises(ReleaseRefused, match="at most 100"):
        release.update(header(), np.zeros(3, np.float32), COUNTS)
    assert release.bytes_released == 0
