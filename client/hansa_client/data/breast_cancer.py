"""``breast_cancer``: 569 tumours with 30 measured features (Street et al. 1993), from the package scikit-learn."""

import io

from hansa_client.data.bundled import read_bundled, refuse_settings
from hansa_client.data.contract_check import check
from hansa_client.data.source import ADAPTERS, Dataset, Source
from hansa_client.data.table import require_table, to_dataset
from hansa_common.models.registry import Contract

LABEL = "diagnosis"
CLASSES = ("malignant", "benign")

_MEASURES = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
    "fractal dimension",
)
COLUMNS = (
    *(f"mean {measure}" for measure in _MEASURES),
    *(f"{measure} error" for measure in _MEASURES),
    *(f"worst {measure}" for measure in _MEASURES),
)


@ADAPTERS.register("breast_cancer")
def read(source: Source, contract: Contract) -> Dataset:
    """Return the columns that a table contract names among ``COLUMNS``, with the label column ``diagnosis``.

    Raises:
        DataUnavailable: scikit-learn is not installed.
        ContractViolation: The contract asks for other columns, classes or no table.
        SettingsError: A path or an option is given; there is none.
    """
    import pandas as pd

    refuse_settings(source, "breast_cancer")
    table = require_table(contract, adapter="breast_cancer")
    text = read_bundled("sklearn", "datasets/data/breast_cancer.csv", extra="site")
    frame = pd.read_csv(io.BytesIO(text), header=None, skiprows=1, names=[*COLUMNS, LABEL])
    frame[LABEL] = frame[LABEL].map(dict(enumerate(CLASSES)))
    frame.index = frame.index + 1
    return check(to_dataset(frame, table, origin="breast cancer (from scikit-learn)", counting="from 1"), table)
