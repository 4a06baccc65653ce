"""Training under example-level differential privacy: what leaves tells little about any one person of the site.

DP-SGD, algorithm 1 of Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, with Opacus' gradients of each
example (Yousefpour et al., "Opacus: User-Friendly Differential Privacy Library in PyTorch", 2021):

1. each person is in a step with probability ``q = sampling_rate``, independently of the others, with one row of theirs;
2. the gradient of each row is clipped to the L2 norm ``C = clipping_bound``;
3. their sum gets Gaussian noise of standard deviation ``noise_multiplier * C`` in every coordinate;
4. the result, divided by the plan's ``batch_size``, is the gradient that the optimiser sees.

Guarantee, by the accountant of the Poisson-subsampled Gaussian mechanism at rate ``q`` over ``steps`` of each round,
for neighbours that differ by all rows of one person. It holds because nothing else depends on the data: steps, rate and
divisor are the plan's, a step without persons is taken too, optimiser and schedule see noised gradients only, and
neither a loss nor a count leaves.

Numbers. In floating point the noise's last digits can tell what it was added to (Mironov, "On Significance of the Least
Significant Bits for Differential Privacy", CCS 2012), and a sum's rounding can change by more than one clipped gradient
(Casacuberta et al., "Widespread Underestimation of Sensitivity in Differentially Private Libraries", CCS 2022). So
clipped gradients are cut, towards zero, to whole multiples of ``C / 2**22``: no norm grows, and their sum is exact. The
noise is rounded to the same grid, and because a whole number plus rounded noise is the rounded sum, what leaves is a
function of the real-valued Gaussian mechanism's output. What remains: a gradient is computed in float32 beside others,
whose number may change its last bits; and a step that is not finite stops the round, which the coordinator sees.

Draws come from the operating system (``secure_random``), so two runs with one seed differ; the seed that the plan gives
a round is not used, for dropout and augmentation of one batch could otherwise be replayed without a person.

Shapes: ``B`` examples computed together, ``T`` trainable parameters, ``P`` parameters, ``U`` persons.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from hansa_client.data.persons import Persons
from hansa_client.data.source import Dataset, Indices
from hansa_client.data.split import Splits
from hansa_client.device import seed_device
from hansa_client.training.augmentation import add_noise, augment_images
from hansa_client.training.corrections import Correction
from hansa_client.training.evaluation import count_answers, evaluation_batch
from hansa_client.training.examples import Examples, Loader, class_weights, model_input
from hansa_client.training.flat_model import initial_parameters, shared_model
from hansa_client.training.memory import exhaustion_named
from hansa_client.training.optimizer import build_optimizer
from hansa_client.training.per_example import example_gradients, refuse_unsuitable
from hansa_client.training.private_counts import noised_counts
from hansa_client.training.procedure import Procedure, Split, Trained
from hansa_client.training.schedule import learning_rate
from hansa_client.training.secure_random import Randomness, SecureRandomness
from hansa_common.errors import TaskRefused, TrainingError
from hansa_common.metrics import ClassificationCounts, of_classes
from hansa_common.parameters import ParameterSpec, Vector, is_finite
from hansa_common.plan import StudyPlan
from hansa_common.privacy_plan import DifferentialPrivacyPlan

ROWS: Final = 256  # examples computed together at most; with GRID, an int32 holds their sum
# Gradient values of the examples computed together. On a CPU they have to stay in the cache: of the shared CNN 32
# images at once take 1 ms each, 240 take 1.9 ms. For a GPU 256 MiB.
VALUES_CPU: Final = 1 << 22
VALUES_GPU: Final = 1 << 26
GRID: Final = 1 << 22  # parts of the clipping bound; a float32 holds each of them
_RUN: Final = 64  # squares that float32 adds
_SLACK: Final = 1.0 - 2.0**-18  # more than float32 can be wrong by: half of _RUN * 2**-24 in a norm, 2**-23 in scaling
_SMALLEST_BOUND: Final = 1e-12  # below, the squares of gradients that matter are 0 in float32
_UNSTABLE: Final = "Lower training.learning_rate."


class PrivateTraining(Procedure):
    """DP-SGD on one site's training split, and counts of answers with noise; for one thread at a time.

    Args:
        plan: The study, with ``privacy.differential.kind = "example"``.
        dataset: The site's data, which fulfils the plan's contract.
        splits: Which examples are for training, validation and test.
        device: Where to train.
        randomness: Makes the source of all draws of one call; the operating system's where left out.

    Raises:
        TrainingError: The training split is empty, the model cannot be trained so, or the device has no float64.
        ContractViolation: The data do not say whose a row is.
        TaskRefused: There are so many persons here that the plan's delta protects none of them.
        TrainingOutOfMemory: The data do not fit into the device's memory.
    """

    def __init__(
        self,
        *,
        plan: StudyPlan,
        dataset: Dataset,
        splits: Splits,
        device: torch.device,
        randomness: Callable[[], Randomness] = SecureRandomness,
    ) -> None:
        self._plan, self._training, self._device = plan, plan.training, device
        self._privacy, self._steps = _example_level(plan)
        self._randomness = randomness
        if not len(splits.train):
            raise TrainingError("The training split is empty.", advice="Check the site's data and [evaluation].")
        _check_computation(plan, self._privacy, device)
        everybody = np.concatenate([splits.train, splits.validation, splits.test])
        _check_delta(self._privacy, len(Persons.of(dataset, self._privacy.unit, everybody)))
        parts: dict[Split, Indices] = {"train": splits.train, "validation": splits.validation, "test": splits.test}
        self._persons = {name: Persons.of(dataset, self._privacy.unit, part) for name, part in parts.items()}
        with exhaustion_named("the site's data", advice='Give the site a larger device, or device = "cpu".'):
            loader = Loader(plan.data, dataset, splits.train, device)
            self._splits = {name: loader.load(part) for name, part in parts.items()}
            self._model = shared_model(plan, device)
        self._model.load(initial_parameters(plan, plan.seed))
        shape = (2, *plan.data.feature_shape)
        refuse_unsuitable(self._model.module, torch.rand(shape, generator=Generator().manual_seed(0)).to(device))
        weights = class_weights(self._training.class_weights, dataset.labels[:0], len(plan.data.classes))
        self._class_weights = None if weights is None else torch.from_numpy(weights).to(device)
        self._trainable = len(self._model.trainable)
        values = VALUES_CPU if device.type == "cpu" else VALUES_GPU
        self._rows = max(1, min(ROWS, values // self._trainable))

    @property
    def spec(self) -> ParameterSpec:
        """The tensors of the model: parameters, then floating-point buffers."""
        return self._model.spec

    @property
    def num_trainable(self) -> int:
        """How many of the vector's values are trained: the first ones."""
        return len(self._model.trainable)

    @property
    def normalisation_tensors(self) -> frozenset[str]:
        """Names of the normalisation layers' parameters and running statistics."""
        return self._model.normalisation_tensors

    def initial(self, seed: int) -> Vector:
        """Return freshly initialised parameters ``float32 [P]``, the same for one seed on every machine."""
        return initial_parameters(self._plan, seed)

    def train(
        self, parameters: Vector, *, round_number: int, seed: int, correction: Correction | None = None
    ) -> Trained:
        """Take the plan's steps from ``parameters``; see ``Procedure``.

        The number of examples and the loss are private: 1 and 0 stand in their place, so all sites weigh the same.
        """
        del seed  # all members know it
        doing = f"private training with {self._rows} examples at once"
        with exhaustion_named(doing, advice="Take a smaller model."):
            return self._train(parameters, round_number, correction)

    def _train(self, parameters: Vector, round_number: int, correction: Correction | None) -> Trained:
        randomness = self._randomness()
        self._model.load(parameters)
        self._model.module.train()
        seed_device(self._device, randomness.seed())
        generator = Generator().manual_seed(randomness.seed())
        # its state is reset each round
        optimizer = build_optimizer(self._training, self._model.trainable, self._model.groups)
        correct = correction.start(self._model) if correction is not None else None
        with example_gradients(self._model.module) as differentiate:
            for step in range(self._steps):
                rate = learning_rate(
                    self._training,
                    rounds=self._plan.rounds.count,
                    round_number=round_number,
                    step=step,
                    steps=self._steps,
                )
                gradient = self._noised_gradient(differentiate, randomness, generator)
                self._model.gradient.copy_(gradient)
                if correct is not None:  # after the noise: it depends on no example of this step
                    correct()
                optimizer.step(rate)
        self._model.clear_gradient()
        delta = self._model.minus(parameters)
        self._check_delta(delta, round_number)
        return Trained(delta=delta, num_examples=1, loss=0.0, steps=self._steps)

    def _noised_gradient(
        self, differentiate: Callable[[Tensor], list[Tensor]], randomness: Randomness, generator: Generator
    ) -> Tensor:
        """Return one step's gradient ``float64 [T]``, which may be known to everybody."""
        privacy, persons = self._privacy, self._persons["train"]
        assert privacy.sampling_rate is not None
        chosen = persons.draw_rows(randomness.sample(len(persons), privacy.sampling_rate), randomness.below)
        total = torch.zeros(self._trainable, dtype=torch.float64, device=self._device)
        for start in range(0, len(chosen), self._rows):
            rows = torch.from_numpy(chosen[start : start + self._rows])
            total += self._clipped_sum(self._splits["train"].take(rows), differentiate, generator)
        noise = randomness.gaussian(privacy.noise_multiplier * GRID, self._trainable)
        total += torch.from_numpy(noise).to(self._device)
        return total * (privacy.clipping_bound / GRID / self._training.batch_size)

    def _clipped_sum(
        self, examples: Examples, differentiate: Callable[[Tensor], list[Tensor]], generator: Generator
    ) -> Tensor:
        """Return the sum of these examples' clipped gradients in parts of the bound: whole numbers ``int32 [T]``.

        ========================  ==================================================================
        an example's gradient     what it adds
        ========================  ==================================================================
        zero, or short            itself, cut to the grid
        exactly as long as C      itself, cut to the grid
        longer                    C in its direction, cut to the grid
        NaN or infinite           nothing leaves: ``TrainingError``
        ========================  ==================================================================
        """
        gradients = differentiate(self._loss(examples, generator))
        norms = _norms([part.flatten(1) for part in gradients])
        if not torch.isfinite(norms).all():
            raise TrainingError("Training diverged: a gradient is not finite.", advice=_UNSTABLE)
        scales = (_SLACK * GRID / norms.clamp(min=self._privacy.clipping_bound)).to(torch.float32)
        # The conversion cuts towards zero; it is three times as fast as trunc_ and a sum of floats.
        whole = [part.mul_(_broadcast(scales, part)).to(torch.int32) for part in gradients]
        return torch.cat([part.sum(0, dtype=torch.int32).flatten() for part in whole])

    def _loss(self, examples: Examples, generator: Generator) -> Tensor:
        """Return the sum of the cross-entropies: a mean's gradient of one example would depend on the others."""
        augmentation = self._training.augmentation
        inputs = model_input(augment_images(examples.features, augmentation, generator))
        if augmentation.noise:
            inputs = add_noise(inputs, augmentation.noise, generator)
        inputs = inputs.clone(memory_format=torch.contiguous_format)  # as Opacus' convolutions need them
        logits = self._model.module(inputs)
        return functional.cross_entropy(logits, examples.labels, weight=self._class_weights, reduction="sum")

    def _check_delta(self, delta: Vector, round_number: int) -> None:
        if not is_finite(delta):
            raise TrainingError(
                f"Training diverged in round {round_number}: a parameter is not finite after {self._steps} steps.",
                advice=_UNSTABLE,
            )
        if delta[self._trainable :].any():
            raise TrainingError(
                "The model changes values other than its trainable parameters while it trains: no noise covers them.",
                advice="Take a model without running statistics.",
            )

    def evaluate(self, parameters: Vector, split: Split) -> ClassificationCounts:
        """Count with noise what the model gets right on one row of each person of a split.

        Without ``metrics_noise`` in the plan nothing is counted: zeros are returned.

        Raises:
            TrainingOutOfMemory: The device has too little memory.
            TrainingError: The model's outputs are not finite.
        """
        if self._privacy.metrics_noise is None:
            return ClassificationCounts.zero(len(self._plan.data.classes), histograms=False)
        randomness, persons = self._randomness(), self._persons[split]
        rows = torch.from_numpy(persons.draw_rows(np.ones(len(persons), dtype=np.bool_), randomness.below))
        counts = count_answers(
            self._model,
            [parameters],
            self._splits[split].take(rows),
            self._plan.data,
            batch=evaluation_batch(self._plan.data, self._device),
            histograms=False,
        )
        return noised_counts(of_classes(counts), self._privacy.metrics_noise, randomness)


def _norms(parts: list[Tensor]) -> Tensor:
    """Return the L2 norm of each example's gradient, ``float64 [B]``, from its parts ``float32 [B, ...]``.

    float32 adds ``_RUN`` squares at most, which is wrong by ``_RUN * 2**-24`` of the sum, and float64 the rest; all in
    float64 takes five times as long.
    """
    lengths = []
    for part in parts:
        runs = part.shape[1] // _RUN
        whole, rest = part[:, : runs * _RUN].reshape(len(part), runs, _RUN), part[:, runs * _RUN :]
        lengths += [torch.linalg.vector_norm(whole, dim=2), torch.linalg.vector_norm(rest, dim=1, keepdim=True)]
    norms: Tensor = torch.linalg.vector_norm(torch.cat(lengths, dim=1).to(torch.float64), dim=1)
    return norms


def _broadcast(scales: Tensor, gradients: Tensor) -> Tensor:
    return scales.view(-1, *[1] * (gradients.ndim - 1))


def _example_level(plan: StudyPlan) -> tuple[DifferentialPrivacyPlan, int]:
    privacy, steps = plan.privacy.differential, plan.training.steps
    if privacy is None or privacy.kind != "example" or steps is None:
        raise RuntimeError("Private training is for plans with privacy.differential.kind = 'example' and steps.")
    return privacy, steps


def _check_computation(plan: StudyPlan, privacy: DifferentialPrivacyPlan, device: torch.device) -> None:
    if device.type == "mps":
        raise TrainingError(
            "Private training computes norms in float64, which an Apple GPU has not.", advice='Set device = "cpu".'
        )
    if privacy.clipping_bound < _SMALLEST_BOUND:
        raise TrainingError(
            f"privacy.differential.clipping_bound = {privacy.clipping_bound:g} is too small for float32.",
            advice=f"Ask for a plan with a bound of at least {_SMALLEST_BOUND:g}.",
        )
    if plan.training.precision != "float32":
        raise TrainingError(
            f"training.precision = '{plan.training.precision}' is not for private training.",
            advice="Ask for a plan with precision = 'float32'.",
        )


def _check_delta(privacy: DifferentialPrivacyPlan, persons: int) -> None:
    if privacy.delta * persons >= 1.0:
        raise TaskRefused(
            f"The plan's delta of {privacy.delta:g} is not below 1 / {persons} persons here: it would allow one "
            "person's data to be published as they are.",
            advice=f"Ask for a plan with privacy.differential.delta well below {1.0 / persons:.1g}.",
        )
