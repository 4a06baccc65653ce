"""Local training of federated averaging: mini-batch gradient descent on the site's own labelled examples.

``ClientUpdate`` of McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS
2017, algorithm 1, with the optimiser, schedule and augmentation that the plan names.

One seed gives one result, bit for bit, on one kind of CPU with one torch thread: permutations and augmentation come
from a generator of their own, dropout from the process's, and nothing survives a call but the site's data.

Shapes: ``N`` examples, ``K`` classes, ``P`` parameters.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor
from torch.nn import functional

from hansa_client.data.groups import memberships
from hansa_client.data.source import Dataset
from hansa_client.data.split import Splits
from hansa_client.device import seed_device
from hansa_client.training.augmentation import add_noise, augment_images, mixup
from hansa_client.training.corrections import Correction
from hansa_client.training.evaluation import DIVERGED, count_answers, evaluation_batch
from hansa_client.training.examples import Examples, Loader, class_weights, model_input
from hansa_client.training.flat_model import initial_parameters, shared_model
from hansa_client.training.losses import batch_loss
from hansa_client.training.memory import exhaustion_named
from hansa_client.training.optimizer import Optimizer, build_optimizer
from hansa_client.training.procedure import Procedure, Split, Trained
from hansa_client.training.schedule import learning_rate
from hansa_common.errors import TrainingError
from hansa_common.metrics import Counts
from hansa_common.parameters import ParameterSpec, Vector, is_finite
from hansa_common.plan import StudyPlan


class SupervisedTraining(Procedure):
    """Trains the plan's model on one site's training split; for one thread at a time.

    Args:
        plan: The study; its model, data contract, training section and number of rounds.
        dataset: The site's data, which fulfils the plan's contract.
        splits: Which examples are for training, validation and test.
        device: Where to train.

    Raises:
        TrainingError: The training split is empty.
        TrainingOutOfMemory: The data do not fit into the device's memory.
    """

    def __init__(self, *, plan: StudyPlan, dataset: Dataset, splits: Splits, device: torch.device) -> None:
        if not len(splits.train):
            raise TrainingError("The training split is empty.", advice="Check the site's data and [evaluation].")
        self._plan = plan
        self._training = plan.training
        self._device = device
        with exhaustion_named("the site's data", advice='Give the site a larger device, or device = "cpu".'):
            loader = Loader(plan.data, dataset, splits.train, device)
            self._splits = {
                "train": loader.load(splits.train),
                "validation": loader.load(splits.validation),
                "test": loader.load(splits.test),
            }
            self._model = shared_model(plan, device)
        self._members: dict[Split, npt.NDArray[np.bool_]] = {}
        if plan.evaluation.decision_rows:
            groups = plan.evaluation.groups
            self._members = {
                "validation": np.zeros((len(splits.validation), plan.evaluation.decision_rows - 1), dtype=np.bool_),
                "test": memberships(dataset, groups, splits.test),
            }
        weights = class_weights(plan.training.class_weights, dataset.labels[splits.train], len(plan.data.classes))
        self._class_weights = None if weights is None else torch.from_numpy(weights).to(device)
        self._evaluation_batch = evaluation_batch(plan.data, device)

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

    def examples(self) -> Examples:
        """Return the training split, as the model's batches are cut from it."""
        return self._splits["train"]

    def train(
        self, parameters: Vector, *, round_number: int, seed: int, correction: Correction | None = None
    ) -> Trained:
        """Train from ``parameters`` for what the plan calls one round; see ``Procedure``.

        Each epoch is one permutation of the training split; the last batch of an epoch may be smaller. With ``steps``,
        epochs follow each other until the steps are done. The loss returned is what the optimiser saw: weighted by
        class and mixed where the plan says so.
        """
        size = self._training.batch_size
        doing = f"training with batches of {size}"
        with exhaustion_named(doing, advice="Lower training.batch_size or take a smaller model."):
            return self._train(parameters, round_number, seed, correction)

    def _train(self, parameters: Vector, round_number: int, seed: int, correction: Correction | None) -> Trained:
        examples = self._splits["train"]
        self._model.load(parameters)
        self._model.module.train()
        seed_device(self._device, seed)
        generator = Generator().manual_seed(seed)
        # its state is reset each round
        optimizer = build_optimizer(self._training, self._model.trainable, self._model.groups)
        correct = correction.start(self._model) if correction is not None else None
        an_epoch = math.ceil(len(examples) / self._training.batch_size)
        steps = self._training.steps or an_epoch * (self._training.epochs or 1)
        loss, seen = 0.0, 0
        for start in range(0, steps, an_epoch):
            rates = [
                learning_rate(
                    self._training, rounds=self._plan.rounds.count, round_number=round_number, step=step, steps=steps
                )
                for step in range(start, min(start + an_epoch, steps))
            ]
            epoch_loss, epoch_seen = self._epoch(optimizer, rates, generator, correct)
            if not math.isfinite(epoch_loss):
                raise TrainingError(
                    f"Training diverged in round {round_number}: the loss is {epoch_loss} after at most "
                    f"{start + len(rates)} of {steps} steps.",
                    advice=DIVERGED,
                )
            loss, seen = loss + epoch_loss, seen + epoch_seen
        delta = self._model.minus(parameters)
        if not is_finite(delta):
            raise TrainingError(
                f"Training diverged in round {round_number}: a parameter is not finite after {steps} steps.",
                advice=DIVERGED,
            )
        return Trained(delta=delta, num_examples=len(examples), loss=loss / seen, steps=steps)

    def _epoch(
        self,
        optimizer: Optimizer,
        rates: Sequence[float],
        generator: Generator,
        correct: Callable[[], None] | None,
    ) -> tuple[float, int]:
        """Take one step for each learning rate; return the sum of the examples' losses and how many there were."""
        seen, total = 0, torch.zeros((), device=self._device)
        for rate, (features, labels) in zip(rates, self._batches(len(rates), generator), strict=True):
            self._model.clear_gradient()
            loss = self._loss(features, labels, generator)
            loss.backward()  # type: ignore[no-untyped-call]
            if correct is not None:
                correct()
            if self._training.gradient_clip is not None:
                torch.nn.utils.clip_grad_norm_(self._model.trainable, self._training.gradient_clip)
            optimizer.step(rate)
            total.add_(loss.detach(), alpha=len(labels))
            seen += len(labels)
        # One transfer an epoch: reading the loss of each step would make a GPU wait for it.
        return total.item(), seen

    def _batches(self, count: int, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features and labels of an epoch's first ``count`` batches."""
        examples, size = self._splits["train"], self._training.batch_size
        order = torch.randperm(len(examples), generator=generator)[: count * size]
        return examples.take(order).batches(size)

    def _loss(self, features: Tensor, labels: Tensor, generator: Generator) -> Tensor:
        """Return the batch's mean loss after augmentation: the cross-entropy of classes."""
        augmentation = self._training.augmentation
        inputs = model_input(augment_images(features, augmentation, generator))
        if augmentation.noise:
            inputs = add_noise(inputs, augmentation.noise, generator)
        if self._plan.data.target is not None:
            reduced = self._training.precision == "bfloat16"
            with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=reduced):
                return batch_loss(self._plan.data.target, self._model.module, inputs, labels)
        if not augmentation.mixup:
            return self._cross_entropy(self._logits(inputs), labels)
        mixed = mixup(inputs, labels, augmentation.mixup, generator)
        logits = self._logits(mixed.features)
        own, partners = self._cross_entropy(logits, labels), self._cross_entropy(logits, mixed.partners)
        return mixed.share * own + (1.0 - mixed.share) * partners

    def _logits(self, inputs: Tensor) -> Tensor:
        reduced = self._training.precision == "bfloat16"
        # Entered anew each step: autocast keeps its bfloat16 copies of the weights until it is left.
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=reduced):
            logits: Tensor = self._model.module(inputs)
        return logits.float()

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels, weight=self._class_weights)

    def evaluate(self, parameters: Vector, split: Split) -> Counts:
        """Count what the model with these parameters gets right on one split, in float32.

        Losses are not weighted by class. Histograms, for ROC AUC and calibration, are counted on the test split only.

        Raises:
            TrainingOutOfMemory: The device has too little memory.
            TrainingError: The model's outputs are not finite.
        """
        return self._count([parameters], split, histograms=split == "test")

    def evaluate_last(self, parameters: Vector) -> dict[str, Counts]:
        """See ``Procedure``; where the plan weighs errors by cost, the threshold is chosen on the validation split."""
        decides = self._plan.evaluation.decision_rows > 0
        return {
            "validation": self._count([parameters], "validation", histograms=decides),
            "test": self._count([parameters], "test", histograms=True),
        }

    def evaluate_together(self, versions: Sequence[Vector]) -> Counts:
        """See ``Procedure``."""
        return self._count(versions, "test", histograms=True)

    def _count(self, versions: Sequence[Vector], split: Split, *, histograms: bool) -> Counts:
        return count_answers(
            self._model,
            versions,
            self._splits[split],
            self._plan.data,
            batch=self._evaluation_batch,
            histograms=histograms,
            members=self._members.get(split) if histograms else None,
        )
