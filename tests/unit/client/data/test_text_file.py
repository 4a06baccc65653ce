from pathlib import Path
from typing import Any

import pytest

from hansa_client.data import ADAPTERS, Source, files
from hansa_common.contract import ArrayContract
from hansa_common.errors import ContractViolation, DataUnavailable, SettingsError
from hansa_common.texts import TextContract

NOTES = ArrayContract(
    kind="array",
    shape=(4,),
    minimum=0.0,
    maximum=4.0,
    classes=("well", "ill"),
    minimum_examples=1,
    text=TextContract(tokens="words", learn="class", vocabulary=("no", "fever", "cough")),
)
SPEECH = ArrayContract(
    kind="array",
    shape=(3,),
    minimum=0.0,
    maximum=4.0,
    classes=("a", "b", "\n"),
    minimum_examples=1,
    text=TextContract(tokens="characters", learn="next"),
)


def read(
    folder: Path, content: str | bytes, contract: Any = NOTES, columns: tuple[str, ...] = (), **options: Any
) -> Any:
    path = folder / "notes.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return ADAPTERS["text"](Source(path=path, options=options, columns=columns), contract)


def test_a_text_with_its_class_is_one_example(tmp_path: Path) -> None:
    dataset = read(
        tmp_path,
        'note;state;ward\n"No fever, no cough";well;north\n\nFEVER;ill;south\n',
        text="note",
        label="state",
        delimiter=";",
    )
    assert dataset.features.tolist() == [[2, 3, 1, 2], [0, 0, 0, 3]]
    assert dataset.labels.tolist() == [0, 1]
    assert dataset.columns["ward"].tolist() == ["north", "south"]
    assert dataset.columns["row"].tolist() == ["2", "4"]
    assert "note" not in dataset.columns


def test_every_token_of_a_text_follows_those_before_it_and_no_other_text(tmp_path: Path) -> None:
    dataset = read(tmp_path, "role,text\nHamlet,abb\nOphelia,ba\n", SPEECH)
    assert dataset.features.tolist() == [[0, 0, 2], [0, 2, 3], [0, 0, 3]]
    assert dataset.labels.tolist() == [1, 1, 0]
    assert dataset.columns["role"].tolist() == ["Hamlet", "Hamlet", "Ophelia"]
    assert dataset.columns["row"].tolist() == ["2", "2", "3"]


def test_blank_lines_separate_plain_texts(tmp_path: Path) -> None:
    dataset = read(tmp_path, "\r\nab\r\na\r\n \r\nbb\r\n", SPEECH, form="plain")
    assert dataset.features.tolist() == [[0, 0, 2], [0, 2, 3], [2, 3, 4], [0, 0, 3]]
    assert dataset.labels.tolist() == [1, 2, 0, 1]
    assert dataset.columns["row"].tolist() == ["2", "2", "2", "5"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("txt,label\nno,well\n", "column 'text' is missing. Did you mean 'txt'"),
        ("text,class\nno,well\n", "column 'label' is missing"),
        ("text,label\nno,well\n ,ill\nno,ill\n", r"column 'text': expected a text; found '' in row\(s\) 3"),
        (
            "text,label\nno,well\nno,sick\n",
            r"column 'label': expected one of 'well', 'ill'; found 'sick' in row\(s\) 3",
        ),
        ("text,label\nno,\n", r"column 'label'.*no value in row\(s\) 2"),
        ("text,label\n", "0 examples"),
    ],
)
def test_a_row_that_breaks_the_contract_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ContractViolation, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize("form", ["table", "plain"])
def test_a_line_of_another_encoding_is_named(tmp_path: Path, form: str) -> None:
    with pytest.raises(DataUnavailable, match=r"cannot be read as .*utf-8.*\(line 3\)"):
        read(tmp_path, "text\na\nb\u00e9\n".encode("latin-1"), SPEECH, form=form)
    assert read(tmp_path, "text\naa\nb\u00e9a\n".encode("latin-1"), SPEECH, form=form, encoding="latin-1").labels.size


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ContractViolation, match=r"of which tokens \(\[data.text\]\)"):
        read(tmp_path, "text\na\n", SPEECH.model_copy(update={"text": None}))
    with pytest.raises(SettingsError, match="A plain text has no class"):
        read(tmp_path, "no", form="plain")
    with pytest.raises(SettingsError, match="colour"):
        read(tmp_path, "no", colour=1)
    with pytest.raises(DataUnavailable, match="does not exist"):
        ADAPTERS["text"](Source(path=tmp_path / "absent"), NOTES)
    monkeypatch.setattr(files, "MAX_ARRAY", 80)
    with pytest.raises(DataUnavailable, match=r"about 8 examples of \[3\] take 96 bytes; at most 80"):
        read(tmp_path, "text\nabababab\n", SPEECH)


def test_the_memory_of_many_short_texts_is_known_before_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each text gives an example, however long the stride: 300 of them, not 600 tokens over 100."""
    monkeypatch.setattr(files, "MAX_ARRAY", 300 * 3 * 4 - 1)
    assert SPEECH.text is not None
    contract = SPEECH.model_copy(update={"text": SPEECH.text.model_copy(update={"stride": 100})})
    with pytest.raises(DataUnavailable, match="about 300 examples"):
        read(tmp_path, "text\n" + 300 * "ab\n", contract)
