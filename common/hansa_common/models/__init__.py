"""Model architectures, one file each; a plan names one under ``[model]``."""

from hansa_common.models import cnn, cnn1d, cox, gru, lenet, linear, logistic, lstm, mlp, resnet, transformer, vae
from hansa_common.models.registry import ARCHITECTURES, Architecture

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "cnn",
    "cnn1d",
    "cox",
    "gru",
    "lenet",
    "linear",
    "logistic",
    "lstm",
    "mlp",
    "resnet",
    "transformer",
    "vae",
]
