"""The federated vocabulary: counts of texts that add up over sites, and the token ids that follow from them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hansa_common.contract import ArrayContract
from hansa_common.errors import MessageError, StudyFailed
from hansa_common.feature_sums import are_declared, measure, num_words, read
from hansa_common.prepared import Prepared, is_asked_for, prepare
from hansa_common.preprocessing_plan import PreprocessingPlan
from hansa_common.texts import TextContract

WORDS = ("no", "fever", "cough", "pain", "rash")
CONTRACT = ArrayContract(
    kind="array",
    shape=(4,),
    minimum=0.0,
    maximum=6.0,
    classes=("well", "ill"),
    text=TextContract(tokens="words", learn="class", vocabulary=WORDS),
)
PLAN = PreprocessingPlan(vocabulary=2, minimum_count=2)
Texts = npt.NDArray[np.float32]
TEXTS = arrays(np.float32, st.tuples(st.integers(0, 12), st.just(4)), elements=st.sampled_from([0.0, 1, 2, 3, 4, 5, 6]))


def holding(texts: Texts, token: int) -> int:
    """Count the texts with a token, one after the other."""
    return sum(token in set(text.tolist()) for text in texts)


@settings(max_examples=40, derandomize=True)
@given(sites=st.lists(TEXTS, min_size=1, max_size=4))
def test_counts_of_sites_add_up_without_what_is_rare_at_one(sites: list[Texts]) -> None:
    found = read(sum((measure(texts, PLAN, CONTRACT) for texts in sites), np.zeros(7, np.uint64)), PLAN, CONTRACT)
    assert found[0].count == sum(len(texts) for texts in sites if len(texts) >= 2)
    for token, sums in enumerate(found, start=1):
        expected = sum(count for texts in sites if (count := holding(texts, token)) >= 2)
        assert sums.total == expected << 172
        if sums.count:
            share = expected / sums.count
            assert sums.mean == pytest.approx(share)
            assert sums.variance == pytest.approx(share * (1 - share))


TRAINING = np.asarray([[0, 2, 3, 3], [1, 5, 3, 0], [5, 2, 5, 3], [6, 1, 4, 4]], np.float32)


def test_the_commonest_keep_their_order_and_the_rest_is_unknown() -> None:
    prepared = prepare(read(measure(TRAINING, PLAN, CONTRACT), PLAN, CONTRACT), PLAN, CONTRACT)
    assert prepared.tokens == (2, 3)  # "no" before "pain", which as many texts hold: it is named first
    assert prepared.apply(TRAINING).tolist() == [[0, 2, 3, 3], [1, 1, 3, 0], [1, 2, 1, 3], [1, 1, 1, 1]]
    assert Prepared(tokens=(3, 6)).apply(TRAINING).tolist() == [[0, 1, 2, 2], [1, 1, 2, 0], [1, 1, 1, 2], [3, 1, 1, 1]]
    everything = PLAN.model_copy(update={"vocabulary": 5})
    assert prepare(read(measure(TRAINING, PLAN, CONTRACT), PLAN, CONTRACT), everything, CONTRACT).tokens == (2, 3, 5)


@settings(max_examples=40, derandomize=True)
@given(texts=TEXTS, data=st.data())
def test_a_token_in_many_texts_of_one_person_is_told_of_nobody(texts: Texts, data: st.DataObject) -> None:
    whose = np.asarray(data.draw(st.lists(st.integers(0, 3), min_size=len(texts), max_size=len(texts))), np.int64)
    found = measure(texts, PLAN, CONTRACT, whose)
    assert found[0] == (len(texts) if len(set(whose.tolist())) >= 2 else 0)
    for token in range(1, 7):
        persons = {person for person, text in zip(whose.tolist(), texts.tolist(), strict=True) if token in text}
        assert found[token] == (holding(texts, token) if len(persons) >= 2 else 0)


def test_texts_in_another_language_end_the_study() -> None:
    with pytest.raises(StudyFailed, match=r"No site has a token of data\.text\.vocabulary"):
        prepare(read(measure(np.ones((9, 4), np.float32), PLAN, CONTRACT), PLAN, CONTRACT), PLAN, CONTRACT)


@pytest.mark.parametrize(("tokens", "right"), [((2, 3), True), ((6,), True), ((), False), ((2, 7), False)])
def test_a_site_takes_only_tokens_that_the_plan_names(tokens: tuple[int, ...], right: Any) -> None:
    assert is_asked_for(Prepared(tokens=tokens), PLAN, CONTRACT) == right
    assert not is_asked_for(Prepared(tokens=(2, 3, 4)), PLAN, CONTRACT)
    assert not is_asked_for(Prepared(tokens=(2,), mean=(0.0,) * 6, deviation=(1.0,) * 6), PLAN, CONTRACT)
    if tokens:
        assert not is_asked_for(Prepared(tokens=tokens), PreprocessingPlan(), CONTRACT)


@pytest.mark.parametrize("tokens", [[3, 2], [2, 2], [1, 2], [0], [2.0]])
def test_ids_that_cannot_be_counted_anew_are_refused(tokens: list[int]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Prepared.model_validate({"tokens": tuple(tokens)})


def test_a_model_that_was_prepared_before_there_were_texts_keeps_its_digest() -> None:
    prepared = Prepared(mean=(0.5,), deviation=(2.0,))
    assert prepared.digest() == "b4a2d151b28061b794231337070433638c15a4728f069090290993efe6e77a5e"
    assert Prepared(tokens=(2,)).digest() != Prepared(tokens=(3,)).digest()


@pytest.mark.parametrize(
    "words", [[4, 5, 0, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0, 1 << 63], [1 << 40, 0, 0, 0, 0, 0, 0], [4]]
)
def test_counts_of_nothing_possible_are_refused(words: list[int]) -> None:
    assert num_words(PLAN, CONTRACT) == 7
    with pytest.raises(MessageError):
        read(np.asarray(words, np.uint64), PLAN, CONTRACT)


@pytest.mark.parametrize(
    ("words", "right"),
    [
        ([4, 0, 2, 3, 4, 0, 0], True),
        ([0, 0, 0, 0, 0, 0, 0], True),
        ([5, 0, 2, 3, 4, 0, 0], False),  # of more texts than it declared
        ([4, 0, 1, 3, 4, 0, 0], False),  # of a single text
    ],
)
def test_counts_must_be_of_the_texts_that_a_site_declared(words: list[int], right: Any) -> None:
    found = read(np.asarray(words, np.uint64), PLAN, CONTRACT)
    assert are_declared(found, PLAN, CONTRACT, 4) == right
