"""Texts as token ids, held against a second reading of the rules that is written out in loops."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_common.contract import ArrayContract, label_names
from hansa_common.errors import PlanError
from hansa_common.plan import parse_plan
from hansa_common.texts import TextContract, Tokeniser

LETTERS = ("a", "b", "c", " ", "\n")
NEXT = TextContract(tokens="characters", learn="next")
WORDS = TextContract(tokens="words", learn="class", vocabulary=("fever", "no", ",", "\u00fcbel"))


def oracle(text: str, steps: int, stride: int) -> list[tuple[list[int], int]]:
    """Return what stands before each stride-th character, and the character's place, one at a time."""
    ids = [LETTERS.index(character) + 2 if character in LETTERS else 1 for character in text]
    found = []
    for end in range(1, len(ids), stride):
        if ids[end] != 1:
            before = ids[max(0, end - steps) : end]
            found.append(([0] * (steps - len(before)) + before, ids[end] - 2))
    return found


@settings(max_examples=50, derandomize=True)
@given(text=st.text(alphabet="abc \nxy", max_size=30), steps=st.integers(1, 9), stride=st.integers(1, 4))
def test_windows_are_those_of_the_rules(text: str, steps: int, stride: int) -> None:
    contract = NEXT.model_copy(update={"stride": stride})
    before, following = Tokeniser(contract, LETTERS, steps).windows(text)
    assert before.dtype == np.float32
    assert list(zip(before.tolist(), following.tolist(), strict=True)) == oracle(text, steps, stride)


@settings(max_examples=50, derandomize=True)
@given(text=st.text(alphabet="abc x", max_size=12))
def test_what_a_model_goes_on_from_is_the_next_window_in_training(text: str) -> None:
    tokeniser = Tokeniser(NEXT, LETTERS, 4)
    before, _following = tokeniser.windows(text + "a")
    if text:
        assert tokeniser.example(text).tolist() == before[-1].tolist()


@pytest.mark.parametrize("text", ["No fever, \u00fcbel", "no\nFEVER ,\u00dcBEL", "no  fever,u\u0308bel"])
def test_words_that_look_alike_are_alike(text: str) -> None:
    assert WORDS.split(text) == ["no", "fever", ",", "\u00fcbel"]
    assert Tokeniser(WORDS, WORDS.vocabulary, 6).example(text).tolist() == [0, 0, 3, 2, 4, 5]


def test_of_a_long_text_the_beginning_is_read_and_what_is_not_named_is_unknown() -> None:
    assert Tokeniser(WORDS, WORDS.vocabulary, 3).example("Cough. No fever").tolist() == [1, 1, 3]
    assert Tokeniser(NEXT, LETTERS, 3).example("xabc").tolist() == [2, 3, 4]


def test_a_class_that_nobody_would_see_is_shown_with_its_marks() -> None:
    contract = ArrayContract(
        kind="array",
        shape=(3,),
        minimum=0.0,
        maximum=6.0,
        classes=LETTERS,
        text=TextContract(tokens="characters", learn="next"),
    )
    assert label_names(contract) == ("a", "b", "c", "' '", r"'\n'")


def test_ends_of_lines_are_one_character() -> None:
    assert NEXT.split("a\r\nb\rc\n") == ["a", "\n", "b", "\n", "c", "\n"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            {"vocabulary": ["no", "Fever"]},
            r"^data\.text\.vocabulary: 'Fever' is not one of the words .* split into; it is split into 'fever'\.",
        ),
        ({"vocabulary": ["no", "u\u0308bel"]}, "is not one of the words"),
        ({"vocabulary": ["no", "no"]}, "named twice"),
        ({"vocabulary": []}, r"^data\.text\.vocabulary: goes with learn = 'class'"),
        ({"stride": 2}, r"^data\.text\.stride"),
        (
            {"learn": "next", "vocabulary": []},
            r"^data\.classes: 'sick note' is not one of the words.* split into 'sick', 'note'",
        ),
        ({"vocabulary": ["no"]}, "set minimum = 0 and maximum = 2"),
    ],
)
def test_a_contract_that_no_text_could_fulfil_is_refused(text: dict[str, Any], message: str) -> None:
    values = {"tokens": "words", "learn": "class", "vocabulary": ["no", "fever"]} | text
    with pytest.raises(PlanError, match=message):
        parse_plan(STUDY | {"data": STUDY["data"] | {"text": values}})


def test_a_model_must_know_every_token_and_nothing_but_tokens() -> None:
    with pytest.raises(PlanError, match=r"^model\.vocabulary: found 3; allowed is 4"):
        parse_plan(STUDY | {"model": {"name": "gru", "vocabulary": 3}})
    with pytest.raises(PlanError, match=r"model\.vocabulary: data\.text makes token ids.*set it to 4\."):
        parse_plan(STUDY | {"model": {"name": "gru"}})
    chosen = {"preprocessing": {"vocabulary": 1}}
    fewer = parse_plan(STUDY | chosen | {"model": {"name": "gru", "vocabulary": 3}})
    assert isinstance(fewer.data, ArrayContract)
    assert fewer.data.maximum == 3.0
    with pytest.raises(PlanError, match="allowed are at most the 2 tokens"):
        parse_plan(STUDY | {"preprocessing": {"vocabulary": 3}, "model": {"name": "gru", "vocabulary": 5}})
    with pytest.raises(PlanError, match="token ids are no numbers"):
        parse_plan(STUDY | {"preprocessing": {"standardise": "federation"}})
    plain = {key: value for key, value in STUDY["data"].items() if key != "text"}
    for changed in ({"preprocessing": {"standardise": "federation"}}, {"data": plain | {"standardise": "site"}}):
        with pytest.raises(PlanError, match="takes token ids, which are no numbers"):
            parse_plan(STUDY | {"data": plain} | changed)
    with pytest.raises(PlanError, match="token ids are names"):
        parse_plan(STUDY | {"evaluation": {"explain": {"method": "integrated_gradients"}}})


def test_examples_of_one_text_may_not_be_cut_into_training_and_test() -> None:
    following = STUDY["data"] | {"classes": ["no", "fever"], "text": {"tokens": "words", "learn": "next"}}
    with pytest.raises(PlanError, match=r"evaluation\.group: examples share rows or tokens.*'row', or another one"):
        parse_plan(STUDY | {"data": following})
    plan = parse_plan(STUDY | {"data": following, "evaluation": {"group": "row"}})
    assert isinstance(plan.data, ArrayContract)
    assert plan.data.tokens == ("no", "fever")
    assert plan.digest() != parse_plan(STUDY).digest()


STUDY: dict[str, Any] = {
    "name": "notes",
    "purpose": "A test.",
    "model": {"name": "gru", "vocabulary": 4},
    "data": {
        "kind": "array",
        "shape": [6],
        "minimum": 0,
        "maximum": 3,
        "classes": ["well", "sick note"],
        "text": {"tokens": "words", "learn": "class", "vocabulary": ["no", "fever"]},
    },
    "training": {"steps": 1},
    "rounds": {"count": 1},
}


@pytest.mark.parametrize(("capital", "small"), [("J\u030c", "\u01f0"), ("W\u030a", "\u1e98"), ("H\u0331", "\u1e96")])
def test_a_capital_that_is_two_signs_is_one_word_with_its_small_letter(capital: str, small: str) -> None:
    assert WORDS.split(f"{capital}A") == WORDS.split(f"{small}a") == [f"{small}a"]
