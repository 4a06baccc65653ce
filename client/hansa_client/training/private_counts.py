"""Right and wrong answers that may leave under example-level differential privacy.

One row of each person is counted, so a person who comes or goes changes one cell of the confusion matrix by one: the
sensitivity is 1. Each cell gets Gaussian noise. The counts are whole numbers, and a whole number plus rounded noise is
the rounded sum: what leaves is a function of the Gaussian mechanism's output (Dwork and Roth, "The Algorithmic
Foundations of Differential Privacy", 2014, appendix A), and the floating-point digits of the noise, from which Mironov
("On Significance of the Least Significant Bits for Differential Privacy", CCS 2012) subtracts it, never do. Cutting off
below zero afterwards is post-processing.

No losses and no histograms leave: a loss has no bound, and a histogram has a cell for nearly every example.
"""

import numpy as np

from hansa_client.training.secure_random import Randomness
from hansa_common.metrics import ClassificationCounts

SENSITIVITY = 1.0
"""L2, of the confusion matrix, to one person; ``hansa_common.privacy.example_level`` has the event for the ledger."""


def noised_counts(counts: ClassificationCounts, multiplier: float, randomness: Randomness) -> ClassificationCounts:
    """Return the confusion matrix with noise, without losses and histograms.

    Args:
        counts: Of one row a person.
        multiplier: Standard deviation of the noise of each cell.
        randomness: From the operating system.
    """
    noise = randomness.gaussian(multiplier * SENSITIVITY, counts.confusion.size).reshape(counts.confusion.shape)
    return ClassificationCounts(confusion=np.maximum(counts.confusion + noise, 0), loss_units=0)
