from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
from pydantic import Field, ValidationError, model_validator

from hansa_common.errors import PlanError, SettingsError
from hansa_common.settings import Strict, parse, read_toml


class _Disk(Strict):
    kind: Literal["disk"]
    path: str


class _Cloud(Strict):
    kind: Literal["cloud"]
    bucket: str
    regions: tuple[Annotated[str, Field(max_length=5)], ...] = ()


class _Limits(Strict):
    memory: Annotated[int, Field(ge=1, le=64)] = 8
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    pair: tuple[int, int] = (1, 2)
    mode: Literal["off", "on"] | int | tuple[int, ...] = "off"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.memory == 13:
            raise ValueError("memory: found 13; allowed is a lucky number.")
        if self.memory == 14:
            raise ValueError("found 14 somewhere.")
        return self


class _Site(Strict):
    name: str
    store: Annotated[_Disk | _Cloud, Field(discriminator="kind")]
    limits: _Limits = _Limits()
    labels: dict[str, int] = Field(default_factory=dict)


_GOOD = {"name": "north", "store": {"kind": "cloud", "bucket": "b", "regions": ["eu"]}}
_CLOUD = {"kind": "cloud", "bucket": "b"}


def test_good_settings_become_a_frozen_value() -> None:
    site = parse(_Site, _GOOD)
    assert site.store == _Cloud(kind="cloud", bucket="b", regions=("eu",))
    with pytest.raises(ValidationError, match="frozen"):
        site.name = "south"  # type: ignore[misc]


_WRONG: dict[str, tuple[dict[str, object], str, str]] = {
    "unknown key": (
        {"nam": "x"},
        "nam",
        "nam: unknown key. Did you mean 'name'? Allowed: labels, limits, name, store.",
    ),
    "unknown key far off": ({"zzz": 1}, "zzz", "zzz: unknown key. Allowed: labels, limits, name, store."),
    "unknown key that is no bare key": ({"a\nb": 1}, r"'a\nb'", r"'a\nb': unknown key."),
    "unknown key in a table": (
        {"limits": {"memry": 1}},
        "limits.memry",
        "Did you mean 'memory'? Allowed: memory, mode",
    ),
    "unknown key of another member": (
        {"store": {"kind": "disk", "path": "p", "bucket": "b"}},
        "store.bucket",
        "store.bucket: unknown key. Allowed: kind, path.",
    ),
    "missing": ({"store": {"kind": "disk"}}, "store.path", "store.path: this key is required and missing."),
    "no discriminator": ({"store": {}}, "store.kind", "store.kind: this key is required and missing."),
    "wrong discriminator": (
        {"store": {"kind": "tape"}},
        "store.kind",
        "store.kind: found 'tape'; allowed is one of 'disk', 'cloud'.",
    ),
    "text for a number": ({"limits": {"memory": "8"}}, "limits.memory", "found '8'; allowed is an integer."),
    "fraction for an integer": ({"limits": {"memory": 8.5}}, "limits.memory", "found 8.5; allowed is an integer."),
    "true for an integer": ({"limits": {"memory": True}}, "limits.memory", "found true; allowed is an integer."),
    "number for text": ({"name": 5}, "name", "found 5; allowed is text in quotes."),
    "not a number": ({"limits": {"share": float("nan")}}, "limits.share", "found nan; allowed is a finite number."),
    "too small": ({"limits": {"memory": 0}}, "limits.memory", "found 0; allowed is at least 1."),
    "too large": ({"limits": {"memory": 65}}, "limits.memory", "found 65; allowed is at most 64."),
    "not more": ({"limits": {"share": 0.0}}, "limits.share", "allowed is more than 0"),
    "not less": ({"limits": {"share": 1.0}}, "limits.share", "allowed is less than 1"),
    "value for a table": ({"limits": 3}, "limits", "limits: found 3; allowed is a table of keys."),
    "table for a value": ({"name": {"a": 1}}, "name", "name: found a table of keys; allowed is text in quotes."),
    "item of a list": (
        {"store": _CLOUD | {"regions": ["eu", 3]}},
        "store.regions[1]",
        "store.regions[1]: found 3; allowed is text in quotes.",
    ),
    "item too long": (
        {"store": _CLOUD | {"regions": ["europe"]}},
        "store.regions[0]",
        "found 'europe'; allowed is text of length 5 or less.",
    ),
    "list too short": ({"limits": {"pair": [1]}}, "limits.pair", "limits.pair: found [1]; item 2 is missing."),
    "list too long": ({"limits": {"pair": [1, 2, 3]}}, "limits.pair", "found [1, 2, 3]; allowed is a list of length 2"),
    "no list": ({"limits": {"pair": 1}}, "limits.pair", "found 1; allowed is a list."),
    "no member of a union": (
        {"limits": {"mode": 1.5}},
        "limits.mode",
        "limits.mode: found 1.5; allowed is 'off' or 'on', an integer or a list.",
    ),
    "item in a member of a union": (
        {"limits": {"mode": [1, "x"]}},
        "limits.mode[1]",
        "limits.mode[1]: found 'x'; allowed",
    ),
    "value of a free table": ({"labels": {"a": "x"}}, "labels.a", "labels.a: found 'x'; allowed is an integer."),
    "validator that names a key": (
        {"limits": {"memory": 13}},
        "limits.memory",
        "limits.memory: found 13; allowed is a",
    ),
    "validator that names none": ({"limits": {"memory": 14}}, "limits", "limits: found 14 somewhere."),
    "long value": ({"name": tuple(range(500))}, "name", "found [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...]; allowed"),
    "long text": ({"limits": "x" * 500}, "limits", "xxx...; allowed"),
}


@pytest.mark.parametrize(("change", "path", "message"), _WRONG.values(), ids=_WRONG)
def test_an_error_names_the_key_what_was_found_and_what_is_allowed(
    change: dict[str, object], path: str, message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(_Site, _GOOD | change, origin="site.toml")
    assert caught.value.path == path
    assert str(caught.value).startswith(f"site.toml: {path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_wrong_key_has_its_line() -> None:
    with pytest.raises(PlanError) as caught:
        parse(_Site, {"name": 1, "store": {"kind": "disk"}, "extra": 1}, error=PlanError)
    assert [line.split(":")[0] for line in str(caught.value).split("\n")] == ["name", "store.path", "extra"]
    assert caught.value.path == "name"


def test_what_is_no_table_at_all_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"\(top level\): found \[1\]; allowed is a table of keys"):
        parse(_Site, [1])  # type: ignore[arg-type]  # JSON from a peer


def test_toml_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[a]\nb = ['ü']\n", encoding="utf-8")
    assert read_toml(file) == {"a": {"b": ["ü"]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = \n", "line 1"),
        (b"a = 1\na = 2\n", "line 2"),
        (b"a = '\xff'\n", "not valid TOML"),
        (b"# " + b"x" * 1_000_000, "larger than 1,000,000 bytes"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=message) as caught:
        read_toml(file)
    assert str(file) in str(caught.value)
    assert caught.value.advice


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="Is a directory"):
        read_toml(tmp_path)
