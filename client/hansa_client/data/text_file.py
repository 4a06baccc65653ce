"""``text``: texts with their classes, or texts to go on with, as ids of the tokens that the plan names.

Shapes: ``N`` examples, ``T`` steps.
"""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from hansa_client.data.contract_check import check
from hansa_client.data.delimited import DelimitedOptions, read_texts, unreadable
from hansa_client.data.files import require_memory, require_path
from hansa_client.data.source import ADAPTERS, Dataset, Source
from hansa_client.data.table import Problems, further_columns, read_names, require_columns
from hansa_common.contract import ArrayContract
from hansa_common.errors import ContractViolation, SettingsError
from hansa_common.models.registry import Contract
from hansa_common.settings import parse
from hansa_common.texts import ROW, Tokeniser

if TYPE_CHECKING:
    import pandas as pd

Name = Annotated[str, Field(min_length=1, max_length=200)]


class TextOptions(DelimitedOptions):
    """Options of the adapter ``text``."""

    form: Literal["table", "plain"] = "table"
    """``plain``: a file of text and nothing else; blank lines separate one text from the next."""
    text: Name = "text"
    """The column with the texts."""
    label: Name = "label"
    """The column with their classes, where the plan learns them."""


@ADAPTERS.register("text")
def read(source: Source, contract: Contract) -> Dataset:
    """Return token ids ``float32 [N, T]``: one example a text with its class, or one for each token to follow others.

    Raises:
        DataUnavailable: The file is missing, has another encoding, or gives more examples than memory is taken for.
        ContractViolation: The contract is not for texts, or a row has no text or no class of it.
        SettingsError: An option is unknown or wrong.
    """
    options = parse(TextOptions, source.options, origin="data adapter 'text'")
    if not isinstance(contract, ArrayContract) or contract.text is None:
        raise ContractViolation(
            "The data adapter 'text' makes token ids; the study does not say of which tokens ([data.text]).",
            advice="Choose another data adapter, or ask for a plan with [data.text].",
        )
    path, text = require_path(source, adapter="text", folder=False), contract.text
    if options.form == "plain" and text.learn == "class":
        raise SettingsError("A plain text has no class, which the study learns.", path="form", advice="Give a table.")
    frame = read_texts(path, options) if options.form == "table" else _read_paragraphs(path, options)
    require_columns(frame, (options.text, *((options.label,) if text.learn == "class" else ())), str(path))
    texts = [content if isinstance(content, str) else "" for content in frame[options.text]]
    problems = Problems(rows=frame.index.to_numpy(dtype=np.int64))
    empty = np.asarray([not content.strip() for content in texts], dtype=np.bool_)
    problems.add(options.text, empty, frame[options.text].fillna(""), "a text")
    tokeniser = Tokeniser(text, contract.tokens, contract.shape[0])
    if text.learn == "class":
        labels = read_names(frame[options.label], options.label, contract.classes, problems)
    problems.refuse(str(path), counting="the header is row 1" if options.form == "table" else "by lines")
    columns = {ROW: frame.index.to_numpy().astype(np.str_)}
    columns |= further_columns(frame.drop(columns=options.text), source.columns)
    count = len(texts) if text.learn == "class" else sum(-(-len(content) // text.stride) for content in texts)
    require_memory(count, contract.shape, origin=str(path))
    features = [np.zeros((0, contract.shape[0]), dtype=np.float32)]
    if text.learn == "class":
        features += [tokeniser.example(content)[None] for content in texts]
    else:
        made = [tokeniser.windows(content) for content in texts]
        features += [before for before, _following in made]
        labels = np.concatenate([np.zeros(0, dtype=np.int64), *(following for _before, following in made)])
        sizes = [len(following) for _before, following in made]
        columns = {name: np.repeat(values, sizes) for name, values in columns.items()}
    dataset = Dataset(features=np.concatenate(features), labels=labels, columns=columns, origin=str(path))
    return check(dataset, contract)


def _read_paragraphs(path: Path, options: TextOptions) -> "pd.DataFrame":
    """Return the texts of a plain file; the index is the line that each begins in."""
    import pandas as pd

    try:
        lines = path.read_text(encoding=options.encoding).split("\n")
    except (OSError, UnicodeError, LookupError) as error:
        raise unreadable(path, error, options.encoding, what="as text") from error
    numbered = itertools.groupby(enumerate(lines, start=1), key=lambda line: bool(line[1].strip()))
    texts = {}
    for holds_text, group in numbered:
        if holds_text:
            numbers, paragraph = zip(*group, strict=True)
            texts[numbers[0]] = "\n".join(paragraph)
    return pd.DataFrame({options.text: list(texts.values())}, index=list(texts), dtype=str)
