import itertools
from pathlib import Path
from typing import Any

import pytest

from hansa_common.combinations import CODECS, class_of, decide
from hansa_common.strategies import STRATEGIES, Traits

_RINGS = (None, 16, 32)
_KINDS = (None, "example", "site_server", "site_distributed")


def _all() -> list[dict[str, Any]]:
    return [
        {"strategy": strategy, "ring_bits": bits, "kind": kind, "codec": codec}
        for strategy, bits, kind, codec in itertools.product(STRATEGIES, _RINGS, _KINDS, CODECS)
    ]


def test_every_combination_is_decided_in_words() -> None:
    assert [combination for combination in _all() if not decide(**combination).text.endswith(".")] == []


def test_noise_of_the_sites_is_never_without_masks_that_have_room_for_it() -> None:
    narrow = [found for found in _all() if found["kind"] == "site_distributed" and found["ring_bits"] != 32]
    assert narrow
    assert [combination for combination in narrow if decide(**combination).allowed] == []


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


def _rows() -> dict[str, dict[str, list[str]]]:
    """By class and strategy: what is decided about each combination, as a row of the table without its first cell."""
    found: dict[str, dict[str, list[str]]] = {}
    for combination in _all():
        decision, strategy = decide(**combination), combination["strategy"]
        kind = f"`{combination['kind']}`" if combination["kind"] else "none"
        cells = (combination["ring_bits"] or "none", kind, f"`{combination['codec']}`")
        words = ("allowed" if decision.allowed else "refused", decision.text.replace(f"'{strategy}'", "'...'"))
        rows = found.setdefault(class_of(STRATEGIES[strategy]), {}).setdefault(strategy, [])
        rows.append(f"{' | '.join(map(str, (*cells, *words)))} |")
    return found


def test_all_strategies_of_a_class_are_decided_alike() -> None:
    for strategies in _rows().values():
        assert len({tuple(rows) for rows in strategies.values()}) == 1


def test_the_tables_in_the_documentation_are_what_is_decided() -> None:
    text = (Path(__file__).parents[3] / "docs" / "privacy.md").read_text(encoding="utf-8")
    classes, table = (
        text.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0].splitlines()[2:]
        for name in ("strategies", "combinations")
    )
    found = _rows()
    assert sorted(classes) == sorted(f"| {name} | {', '.join(f'`{s}`' for s in found[name])} |" for name in found)
    assert sorted(table) == sorted(
        f"| {name} | {row}" for name, strategies in found.items() for row in next(iter(strategies.values()))
    )
