"""Local training, one procedure a file; ``procedure.py`` says what a procedure is."""

from hansa_client.training.procedure import Procedure, Split, Trained
from hansa_client.training.supervised import SupervisedTraining

__all__ = ["Procedure", "Split", "SupervisedTraining", "Trained"]
