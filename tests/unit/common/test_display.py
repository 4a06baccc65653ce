import pytest

from hansa_common.display import printable


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\r", "\n", "\x9b31m", "\u202e", "\u2066", "\u200b", "\x00", "\u2028"])
def test_what_a_terminal_obeys_is_replaced(hostile: str) -> None:
    assert hostile[0] not in printable(f"a{hostile}b")


def test_other_scripts_stay_as_they_are() -> None:
    assert printable("Krankenhaus Süd, 東京病院 100 %") == "Krankenhaus Süd, 東京病院 100 %"
