import itertools
from pathlib import Path
from typing import Any

import pytest

from hansa_common.combinations import CODECS, decide
from hansa_common.strategies import STRATEGIES, Traits

_RINGS = (None, 16, 32)
_KINDS = (None, "example", "site_server", "site_distributed")


def _all() -> list[dict[str, Any]]:
    return [
        {"strategy": strategy, "ring_bits": bits, "kind": kind, "codec": codec}
        for strategy, bits, kind, codec in itertools.product(STRATEGIES, _RINGS, _KINDS, CODECS)
    ]


@pytest.mark.parametrize("combination", _all(), ids=str)
def test_every_combination_is_decided_in_words(combination: dict[str, Any]) -> None:
    assert decide(**combination).text.endswith(".")


@pytest.mark.parametrize("combination", _all(), ids=str)
def test_noise_of_the_sites_is_never_without_masks_that_have_room_for_it(combination: dict[str, Any]) -> None:
    if combination["kind"] == "site_distributed" and combination["ring_bits"] != 32:
        assert not decide(**combination).allowed


def test_a_rule_that_compares_updates_gets_neither_masks_nor_noise_for_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hansa_common.combinations.STRATEGIES", {"median": Traits(needs="all")})
    allowed = {
        (bits, kind)
        for bits, kind in itertools.product(_RINGS, _KINDS)
        if decide(strategy="median", ring_bits=bits, kind=kind, codec="float32").allowed  # type: ignore[arg-type]
    }
    assert allowed == {(None, None), (None, "example")}
    assert "'median' compares" in decide(strategy="median", ring_bits=32, kind=None, codec="float32").text


def test_a_codec_whose_sum_is_not_the_sums_is_refused_under_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hansa_common.combinations.CODECS", {"top-k": False})
    assert not decide(strategy="fedavg", ring_bits=32, kind=None, codec="top-k").allowed
    assert decide(strategy="fedavg", ring_bits=None, kind=None, codec="top-k").allowed


def test_what_nobody_decided_is_no_combination() -> None:
    with pytest.raises(KeyError):
        decide(strategy="unheard-of", ring_bits=None, kind=None, codec="float32")


def test_the_table_in_the_documentation_is_what_is_decided() -> None:
    text = (Path(__file__).parents[3] / "docs" / "privacy.md").read_text(encoding="utf-8")
    table = text.split("<!-- combinations -->\n")[1].split("<!-- /combinations -->")[0].splitlines()[2:]
    decided = []
    for combination in _all():
        decision = decide(**combination)
        kind = f"`{combination['kind']}`" if combination["kind"] else "none"
        cells = (f"`{combination['strategy']}`", combination["ring_bits"] or "none", kind, f"`{combination['codec']}`")
        words = ("allowed" if decision.allowed else "refused", decision.text)
        decided.append(f"| {' | '.join(map(str, (*cells, *words)))} |")
    assert sorted(table) == sorted(decided)
