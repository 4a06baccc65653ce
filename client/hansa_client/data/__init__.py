"""Data at a site: one adapter a file, the check of the contract, the split and the simulated partition."""

from hansa_client.data import (
    breast_cancer,
    cifar10,
    csv_file,
    digits,
    image_folder,
    mnist5k,
    npz,
    parquet_file,
    text_file,
    windows,
)
from hansa_client.data.source import ADAPTERS, Dataset, Source

__all__ = [
    "ADAPTERS",
    "Dataset",
    "Source",
    "breast_cancer",
    "cifar10",
    "csv_file",
    "digits",
    "image_folder",
    "mnist5k",
    "npz",
    "parquet_file",
    "text_file",
    "windows",
]
