"""Model architectures, one file each; a plan names one under ``[model]``."""

from hansa_common.models import cnn, logistic, mlp
from hansa_common.models.registry import ARCHITECTURES, Architecture

__all__ = ["ARCHITECTURES", "Architecture", "cnn", "logistic", "mlp"]
