import re
from typing import Any

import pytest
from tests.unit.server.report.page_checks import assert_accessible

from hansa_common.leakage import (
    CanaryFigures,
    Leakage,
    MembershipFigures,
    Picture,
    Reconstruction,
    Side,
)
from hansa_server.report.leakage_page import findings, outcome, render, rows, sentences


def side(*, recovered: int = 0, round_: int = 0, low: float = 0.48, epsilon: float = 0.0, chance: int = 0) -> Side:
    def entry(setting: Any, examples: int, count: int, by_chance: int = 0) -> Reconstruction:
        return Reconstruction(
            setting=setting, model="mlp", examples=examples, recovered=count, exact=0, by_chance=by_chance, best=41.2
        )

    return Side(
        reconstructions=(entry("batch_1", 4, recovered), entry("batch_4", 16, 0), entry("round", 900, round_, chance)),
        membership=MembershipFigures(
            auc=low + 0.02,
            low=low,
            high=low + 0.04,
            at_few=0.013,
            members=900,
            others=300,
            curve=tuple(percent / 100 for percent in range(101)),
        ),
        canaries=CanaryFigures(epsilon=epsilon, guesses=100, correct=71, canaries=400, confidence=0.95),
    )


def leakage(**changes: Any) -> Leakage:
    values: dict[str, Any] = {
        "study": "heart <b>",
        "plan_digest": "ab" * 32,
        "model": "cnn",
        "sites": 4,
        "rounds": 5,
        "rounds_planned": 20,
        "started_at": "2026-02-03T04:05:06+00:00",
        "seconds": 62.0,
        "data_origin": "made up",
        "protection": "masks",
        "asked_for": True,
        "sums_only": True,
        "trusts_coordinator": False,
        "claimed_epsilon": 8.0,
        "claimed_delta": 1e-4,
        "unit": "person",
        "unprotected": side(recovered=4, round_=7, low=0.6, epsilon=3.4),
        "protected": side(),
    }
    return Leakage(**(values | changes))


PICTURES = (
    Picture(
        attack="batch_4",
        original=b"one",
        unprotected=b"two",
        protected=b"",
        unprotected_ratio=44.4,
        protected_ratio=None,
    ),
)


def test_a_protection_that_held_is_said_to_have_held_in_what_was_tried() -> None:
    found = leakage()
    assert findings(found) == []
    assert outcome(found) == "The protection held in what was tried"
    page = render(found, PICTURES)
    assert 'class="status completed"' in page
    assert "less than claimed, as it must be" in page


@pytest.mark.parametrize(
    ("protected", "words"),
    [
        (side(recovered=1), "1 of 4 examples could still be reconstructed from the sum"),
        (side(round_=4, chance=3), "4 of 900 examples could still be reconstructed"),
        (side(low=0.53), "told better than by guessing"),
        (side(epsilon=8.01), "at least 8.01, more than the 8 that the plan claims: the guarantee is broken"),
    ],
)
def test_what_got_through_is_said_first(protected: Side, words: str) -> None:
    found = leakage(protected=protected)
    assert len(findings(found)) == 1
    assert words in findings(found)[0]
    assert outcome(found) == "The protection did not hold everywhere"
    page = render(found, PICTURES)
    assert 'class="status failed"' in page
    assert page.index(findings(found)[0][:40]) < page.index('id="tried"')


@pytest.mark.parametrize("protected", [side(round_=3, chance=3), side(low=0.519), side(epsilon=7.99)])
def test_what_chance_and_the_claim_allow_is_no_finding(protected: Side) -> None:
    assert findings(leakage(protected=protected)) == []


def test_without_a_claim_a_trace_of_single_examples_is_a_finding() -> None:
    found = leakage(protected=side(epsilon=0.3), claimed_epsilon=None, claimed_delta=None, unit=None)
    assert "at least 0.30. Nothing in this protection limits it." in findings(found)[0]
    assert "The plan claims no epsilon" in render(found, ())


def test_a_plan_without_protection_is_called_so() -> None:
    found = leakage(asked_for=False, claimed_epsilon=None, claimed_delta=None, unit=None)
    assert outcome(found) == "The plan asks for no protection"
    page = render(found, PICTURES)
    assert 'class="status failed"' in page
    assert "With secure aggregation, which the plan lacks" in sentences(found)[1]


def test_the_verdict_counts_what_was_recovered() -> None:
    assert sentences(leakage()) == [
        (
            "Without protection, whoever reads the sites' updates got back 4 of 20 examples when a site trained a "
            "single step on one or four of them, and 7 of 900 examples from a whole round as this study trains."
        ),
        "With the plan's protection it is 0 of 20 examples and 0 of 900 examples.",
    ]


def test_the_table_has_both_sides_beside_each_other() -> None:
    table = {row.name: (row.unprotected, row.protected) for row in rows(leakage())}
    assert table["Canaries: epsilon is at least"] == (
        "3.40 (71 of 100 guesses right)",
        "0.00 (71 of 100 guesses right)",
    )
    assert table["Who was trained on: area under the ROC curve, 95% interval"] == (
        "0.620 (0.600 to 0.640)",
        "0.500 (0.480 to 0.520)",
    )
    assert table["A whole round, trained as the study says, mlp"] == ("7 of 900; best 41 dB", "0 of 900; best 41 dB")


def test_the_page_is_self_contained_and_escapes_names() -> None:
    page = render(leakage(), PICTURES)
    assert_accessible(page)
    assert "heart &lt;b&gt;" in page
    assert "<script" not in page
    assert "default-src 'none'" in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "44 dB" in page
    assert page.count(">nothing<") == 1


def test_a_study_without_images_has_no_pictures() -> None:
    assert "no images that could be shown" in render(leakage(), ())


def test_a_trusted_coordinator_is_said_to_read_everything() -> None:
    assert "is trusted and reads each update" in render(leakage(trusts_coordinator=True, unit="site"), ())
