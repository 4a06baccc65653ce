"""The learning rate over all steps of all rounds."""

import math

from hansa_common.training_plan import TrainingPlan


def learning_rate(training: TrainingPlan, *, rounds: int, round_number: int, step: int, steps: int) -> float:
    """Return the learning rate of one step.

    With ``R`` rounds, ``W`` of them for warm-up, round ``r = 1..R`` and step ``s = 0..S-1`` of its ``S`` steps::

        progress t = (r - 1 + s / S) / R
        warm-up, r <= W:   rate * (r - 1 + (s + 1) / S) / W       reaches ``rate`` at the last step of round W
        then, with u = (t - W / R) / (1 - W / R), which runs from 0 towards 1:
          constant         rate
          linear           rate * (1 - u)
          cosine           rate * (1 + cos(pi * u)) / 2           SGDR (Loshchilov and Hutter, ICLR 2017), no restarts

    The first warm-up step has a rate above 0 and so has the last step of the last round: no step is for nothing.

    Args:
        training: ``learning_rate``, ``schedule`` and ``warmup_rounds`` of the plan.
        rounds: ``R``, all rounds of the plan.
        round_number: ``r``, from 1.
        step: ``s``, from 0.
        steps: ``S``, how many steps this round has.
    """
    peak, warmup = training.learning_rate, training.warmup_rounds
    if round_number <= warmup:
        return peak * (round_number - 1 + (step + 1) / steps) / warmup
    if training.schedule == "constant":
        return peak
    done = (round_number - 1 - warmup + step / steps) / (rounds - warmup)
    if training.schedule == "linear":
        return peak * (1.0 - done)
    return peak * (1.0 + math.cos(math.pi * done)) / 2.0
