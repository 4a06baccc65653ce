import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hansa_common import codecs
from hansa_common.codecs import BLOCK, pack, packed_size, unpack
from hansa_common.errors import MessageError, ReleaseRefused
from hansa_common.transport_plan import Codec

ALL: tuple[Codec, ...] = ("float32", "bf16", "int8", "int4", "topk")
VECTORS = hnp.arrays(np.float32, st.integers(0, 700), elements=st.floats(-(2.0**99), 2.0**99, width=32))


def normal(size: int = 1_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


@pytest.mark.parametrize("codec", ALL)
@settings(derandomize=True, max_examples=50)
@given(vector=VECTORS, compress=st.booleans())
def test_what_was_decoded_encodes_to_the_same_bytes(codec: Codec, vector: np.ndarray, compress: bool) -> None:
    packed = pack(vector, codec, compress=compress, seed=3)
    found = unpack(packed, codec, compress=compress, size=vector.size)
    assert found.dtype == np.float32
    assert found.shape == vector.shape
    if codec in ("float32", "bf16"):
        assert pack(found, codec, compress=compress, seed=None) == packed
    if codec == "float32":
        assert found.tobytes() == vector.tobytes()
    if not compress:
        assert len(packed) == packed_size(codec, vector.size)


@pytest.mark.parametrize(("codec", "levels"), [("int8", 127), ("int4", 7)])
@pytest.mark.parametrize("seed", [None, 5])
def test_each_value_is_within_one_step_of_its_block(codec: Codec, levels: int, seed: int | None) -> None:
    vector = (
        normal(5 * BLOCK + 7)
        * np.repeat(np.float32(10.0) ** np.arange(-3, 3, dtype=np.float32), BLOCK)[: 5 * BLOCK + 7]
    )
    found = unpack(pack(vector, codec, compress=False, seed=seed), codec, compress=False, size=vector.size)
    for start in range(0, vector.size, BLOCK):
        part = slice(start, start + BLOCK)
        step = np.abs(vector[part]).max() / levels
        assert np.abs(found[part] - vector[part]).max() <= step * (0.5 if seed is None else 1.0) * (1 + 1e-5)


def test_bfloat16_rounds_to_nearest_even_as_torch_does() -> None:
    torch = pytest.importorskip("torch")
    vector = np.concatenate([normal(4_096), np.array([1.00390625, 1.01171875, -0.0, 0.0, 1e-40], np.float32)])
    found = unpack(pack(vector, "bf16", compress=False, seed=None), "bf16", compress=False, size=vector.size)
    assert found.tobytes() == torch.from_numpy(vector).bfloat16().float().numpy().tobytes()


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_stochastic_rounding_is_right_in_the_mean(codec: Codec) -> None:
    vector = normal(BLOCK)
    draws = [
        unpack(pack(vector, codec, compress=False, seed=seed), codec, compress=False, size=BLOCK) for seed in range(600)
    ]
    step = np.abs(vector).max() / {"int8": 127, "int4": 7}[codec]
    error = np.mean(draws, axis=0) - vector
    assert np.abs(error).max() < 5 * step / 2 / np.sqrt(600)  # a draw has a deviation of at most half a step
    assert not np.array_equal(draws[0], draws[1])


def test_a_seed_draws_the_same_whatever_is_drawn_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    first = pack(normal(), "int4", compress=False, seed=4)
    np.random.default_rng(0).random()
    assert pack(normal(), "int4", compress=False, seed=4) == first
    whole = pack(normal(3 * BLOCK), "int8", compress=False, seed=None)
    monkeypatch.setattr(codecs, "_PIECE", BLOCK)
    assert pack(normal(3 * BLOCK), "int8", compress=False, seed=None) == whole


@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_does_not_leave(codec: Codec, value: float) -> None:
    with pytest.raises(ReleaseRefused):
        pack(np.array([0.0, value], np.float32), codec, compress=False, seed=1)


def test_a_value_that_bfloat16_rounds_to_infinity_does_not_leave() -> None:
    with pytest.raises(ReleaseRefused, match="too large"):
        pack(np.array([np.finfo(np.float32).max], np.float32), "bf16", compress=False, seed=None)


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_the_least_and_the_largest_numbers_survive(codec: Codec) -> None:
    for value in (1e-45, 1e-38, 3.4e38):
        vector = np.array([value, -value, 0.0], np.float32)
        found = unpack(pack(vector, codec, compress=False, seed=1), codec, compress=False, size=3)
        assert np.abs(found - vector).max() <= value


def test_of_the_largest_values_each_is_within_half_a_step_and_the_others_are_zero() -> None:
    vector = normal(5_000)
    found = unpack(
        pack(vector, "topk", compress=False, seed=None, fraction=0.1), "topk", compress=False, size=5_000, fraction=0.1
    )
    where = np.argsort(-np.abs(vector), kind="stable")[:500]
    others = np.setdiff1d(np.arange(5_000), where)
    assert not found[others].any()
    assert np.abs(found[where] - vector[where]).max() <= np.abs(vector).max() / 127 * 0.5 * (1 + 1e-5)


def test_one_in_a_hundred_values_takes_two_bytes_each() -> None:
    for fraction, times in ((0.01, 195), (0.001, 1_600), (0.1, 24)):
        packed = pack(normal(1_000_000), "topk", compress=False, seed=None, fraction=fraction)
        assert 4_000_000 / len(packed) > times
        assert 0.96 < len(packed) / packed_size("topk", 1_000_000, fraction=fraction) <= 1.0


# --- hostile bytes ---


@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize("change", [-1, 1])
def test_another_length_is_refused(codec: Codec, change: int) -> None:
    packed = pack(normal(), codec, compress=False, seed=1)
    changed = packed[:change] if change < 0 else packed + b"\0"
    with pytest.raises(MessageError, match=r"bytes|992 positions; the plan has 1,000"):
        unpack(changed, codec, compress=False, size=1_000)


@pytest.mark.parametrize("codec", ALL)
@settings(derandomize=True, max_examples=150)
@given(content=st.binary(max_size=60), compress=st.booleans())
def test_garbage_is_refused_or_has_one_encoding(codec: Codec, content: bytes, compress: bool) -> None:
    try:
        found = unpack(content, codec, compress=compress, size=20)
    except MessageError:
        return
    assert np.isfinite(found).all()
    assert found.shape == (20,)


def compressed(content: bytes, *, size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=size).compress(content)


def test_a_bomb_is_refused_before_it_unfolds(monkeypatch: pytest.MonkeyPatch) -> None:
    def unfold(*_arguments: object, **_options: object) -> bytes:
        raise AssertionError

    bomb = compressed(bytes(1 << 28))
    assert len(bomb) < 100_000
    with monkeypatch.context() as patch:
        patch.setattr(zstandard, "ZstdDecompressor", unfold)
        with pytest.raises(MessageError, match="another number"):
            unpack(bomb, "float32", compress=True, size=1_000)
        with pytest.raises(MessageError, match="another number"):
            unpack(compressed(bytes(4_000), size=False), "float32", compress=True, size=1_000)


def test_a_frame_that_lies_about_its_size_is_refused() -> None:
    honest, long = compressed(bytes(4_000)), compressed(bytes(8_000))
    # same form of header: the claim of one before the content of the other
    head = 6 if honest[4] == long[4] else 0
    assert head
    for content in (honest[: head + 1] + long[head + 1 :], honest + b"\0", honest + honest, honest[:-1]):
        with pytest.raises(MessageError):
            unpack(content, "float32", compress=True, size=1_000)


def tampered(codec: Codec, at: int, value: int, size: int = 301) -> bytes:
    packed = bytearray(pack(normal(size), codec, compress=False, seed=1))
    packed[at] = value
    return bytes(packed)


def with_scale(scale: float) -> bytes:
    packed = pack(normal(), "int8", compress=False, seed=1)
    return np.float32(scale).tobytes() + packed[4:]


@pytest.mark.parametrize("scale", [-1.0, -0.0, np.nan, np.inf, 3e38])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(MessageError, match="scale"):
        unpack(with_scale(scale), "int8", compress=False, size=1_000)


def test_values_have_one_encoding_only() -> None:
    with pytest.raises(MessageError, match="below the least"):
        unpack(tampered("int8", 20, 0x80), "int8", compress=False, size=301)
    with pytest.raises(MessageError, match="below the least"):
        unpack(tampered("int4", 20, 0x18), "int4", compress=False, size=301)
    with pytest.raises(MessageError, match="half byte"):
        unpack(tampered("int4", -1, 0x10), "int4", compress=False, size=301)
    with pytest.raises(MessageError, match="block of zeros"):
        unpack(with_scale(0.0), "int8", compress=False, size=1_000)
    zeros = pack(np.zeros(10, np.float32), "int8", compress=False, seed=1)
    assert zeros == bytes(14)
    with pytest.raises(MessageError, match="block of zeros"):
        unpack(np.float32(1.0).tobytes() + zeros[4:], "int8", compress=False, size=10)
