"""``digits``: 1,797 hand-written digits of 8 x 8 pixels (Alpaydin and Kaynak 1998), from the package scikit-learn."""

import io

import numpy as np

from hansa_client.data.bundled import read_bundled, refuse_settings
from hansa_client.data.contract_check import check
from hansa_client.data.pixels import fit_pixels
from hansa_client.data.source import ADAPTERS, Dataset, Source
from hansa_common.models.registry import Contract

_ORIGIN = "digits (from scikit-learn)"
_FULL = 16  # a pixel counts the dark ones among 4 x 4 of the scan


@ADAPTERS.register("digits")
def read(source: Source, contract: Contract) -> Dataset:
    """Return 8 x 8 grey images in 0..255, padded and repeated as an image contract asks, or 64 values in 0..1.

    Raises:
        DataUnavailable: scikit-learn is not installed.
        ContractViolation: The contract asks for smaller images, a table or fewer than ten classes.
        SettingsError: A path or an option is given; there is none.
    """
    refuse_settings(source, "digits")
    text = read_bundled("sklearn", "datasets/data/digits.csv.gz", extra="site")
    table = np.loadtxt(io.BytesIO(text), delimiter=",").astype(np.uint8)
    features = fit_pixels(table[:, :-1].reshape(-1, 8, 8, 1), contract, origin=_ORIGIN, maximum=_FULL)
    return check(Dataset(features=features, labels=table[:, -1].astype(np.int64), origin=_ORIGIN), contract)
