"""Reconstructions from one round, in the settings that are easiest to attack and in the study's own.

One step on few examples with a wide dense first layer is the worst case that a plan can ask for. A whole round with the
study's own training says what the plan at hand gives away. For convolutional models gradients are matched.

Shapes: ``N`` examples, ``F`` features, ``P`` parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hansa_client.data.source import Indices
from hansa_client.leaks import analytic, gradient_matching
from hansa_client.leaks.analytic import Range
from hansa_client.leaks.observation import Observed, observed
from hansa_client.leaks.pipeline import Sites, changed_plan, trained_on
from hansa_client.leaks.similarity import EXACT, RECOVERED, Floats, match
from hansa_client.site_data import SiteData
from hansa_client.training.examples import Loader, model_input
from hansa_common.contract import ArrayContract, ImageContract, feature_count
from hansa_common.leakage import Reconstruction, Setting
from hansa_common.parameters import ParameterSpec, Vector
from hansa_common.plan import StudyPlan

_WIDE = {"name": "mlp", "options": {"hidden": (1024,), "activation": "relu"}}
_MATCHED = 4  # images for gradient matching; each takes seconds
_MOST_SITES = 16  # in the settings of one step; fewer than there are only help the attack
_MOST_GUESSES = 512  # reconstructions of a whole round
_ALWAYS = 0.999999  # sampling rate of DP-SGD that takes each of the few examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attack in one setting.

    Attributes:
        figures: How many examples it gave back.
        originals: ``float64 [N, F]``, as the model gets them.
        found: ``float64 [N, F]``, the reconstruction that is closest to each; NaN where there is none.
        ratios: In dB, for each original.
    """

    figures: Reconstruction
    originals: Floats = field(repr=False)
    found: Floats = field(repr=False)
    ratios: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    plan: StudyPlan
    spec: ParameterSpec
    parameters: Vector
    observed: Observed
    originals: Mapping[str, Floats] = field(repr=False)
    strangers: Floats = field(repr=False)


def attack(
    plan: StudyPlan, sites: Sequence[SiteData], *, seed: int, tell: Callable[[float], None] = lambda _share: None
) -> tuple[Attempt, ...]:
    """Try to give back training examples under the plan's protection.

    Args:
        plan: The study, with the protection to be measured.
        sites: All of its simulated sites.
        seed: Which examples.
        tell: Called with the share that is done.

    Raises:
        HansaError: A site's training failed, or the protection does not fit.
    """
    few = sites[:_MOST_SITES]
    wide = {"model": plan.model.model_dump() if plan.model.name == "mlp" else _WIDE}
    attempts = [
        _invert("batch_1", _round(_one_step(plan, 1, wide), few, 1, seed)),
        _invert("batch_4", _round(_one_step(plan, 4, wide), few, 4, seed)),
        _invert("round", _round(changed_plan(plan, wide), sites, None, seed)),
    ]
    tell(0.4)
    if isinstance(plan.data, ImageContract) and plan.model.name not in ("mlp", "logistic"):
        round_ = _round(_one_step(plan, 1, {}), few, 1, seed)
        attempts.append(_match(round_, seed, lambda share: tell(0.4 + 0.6 * share)))
    tell(1.0)
    return tuple(attempts)


def value_range(plan: StudyPlan, examples: Floats) -> Range:
    """Return what a feature may be: as the contract says, else as the data are."""
    if isinstance(plan.data, ImageContract):
        return Range(low=0.0, high=1.0)
    low, high = float(examples.min()), float(examples.max())
    if isinstance(plan.data, ArrayContract):
        low = low if plan.data.minimum is None else plan.data.minimum
        high = high if plan.data.maximum is None else plan.data.maximum
    return Range(low=low, high=max(high, low + 1e-9))


def _one_step(plan: StudyPlan, batch: int, sections: Mapping[str, Mapping[str, Any]]) -> StudyPlan:
    """Return the plan with one step of gradient descent on so few examples."""
    training = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": batch, "steps": 1}
    privacy = plan.privacy.model_dump(exclude_none=True)
    if plan.privacy.differential is not None and plan.privacy.differential.kind == "example":
        privacy["differential"] |= {"sampling_rate": _ALWAYS}
    return changed_plan(plan, dict(sections) | {"training": training, "privacy": privacy})


def _round(plan: StudyPlan, sites: Sequence[SiteData], batch: int | None, seed: int) -> _Round:
    rng = np.random.Generator(np.random.Philox(seed))
    chosen = [
        site.splits.train
        if batch is None
        else np.sort(rng.choice(site.splits.train, min(batch, len(site.splits.train)), replace=False))
        for site in sites
    ]
    training = [trained_on(site, examples) for site, examples in zip(sites, chosen, strict=True)]
    works = Sites(plan, training)
    spec, parameters = works.initial()
    apart = [np.concatenate([site.splits.test, site.splits.validation]) for site in sites]
    size = sum(len(examples) for examples in chosen)
    strangers = [_inputs(plan, site, positions) for site, positions in zip(training, apart, strict=True)]
    return _Round(
        plan=plan,
        spec=spec,
        parameters=parameters,
        observed=observed(plan, works.updates(parameters, 1)),
        originals={site.name: _inputs(plan, site, examples) for site, examples in zip(training, chosen, strict=True)},
        strangers=rng.permutation(np.concatenate(strangers))[:size],
    )


def _inputs(plan: StudyPlan, site: SiteData, examples: Indices) -> Floats:
    """Return examples as the model gets them, ``float64 [N, F]``."""
    loader = Loader(plan.data, site.dataset, site.splits.train, torch.device("cpu"))
    features = model_input(loader.load(examples).features)
    return np.asarray(features.reshape(len(examples), -1).numpy(), dtype=np.float64)


def _invert(setting: Setting, round_: _Round) -> Attempt:
    limits = value_range(round_.plan, np.concatenate(list(round_.originals.values())))
    originals, found = [], []
    for view in round_.observed.views:
        own = np.concatenate([round_.originals[site] for site in view.sites])
        layer = analytic.dense_first_layer(round_.spec, view.delta, feature_count(round_.plan.data))
        originals.append(own)
        if layer is not None:
            found.append(analytic.invert(*layer, limits, most=min(len(own), _MOST_GUESSES)))
    return _judge(setting, round_, originals, found or [np.zeros((0, originals[0].shape[1]))], limits)


def _match(round_: _Round, seed: int, tell: Callable[[float], None]) -> Attempt:
    views, limits = round_.observed.views[:_MATCHED], Range(low=0.0, high=1.0)
    originals, found = [], []
    for number, view in enumerate(views):
        own = np.concatenate([round_.originals[site] for site in view.sites])
        images, _ = gradient_matching.invert(
            round_.plan,
            round_.parameters,
            view.delta,
            batch=len(own),
            seed=seed,
            tell=lambda share, number=number: tell((number + share) / len(views)),  # type: ignore[misc]
        )
        originals.append(own)
        found.append(images)
    return _judge("matching", round_, originals, found, limits)


def _judge(
    setting: Setting, round_: _Round, originals: Sequence[Floats], found: Sequence[Floats], limits: Range
) -> Attempt:
    """Compare view by view; whether a stranger would count as well shows what is chance."""
    closest, ratios = [], []
    for own, images in zip(originals, found, strict=True):
        pairs, decibels = match(own, images, limits.width)
        ratios += decibels
        closest += [np.full(own.shape[1], np.nan) if pair is None else images[pair] for pair in pairs]
    strangers = match(round_.strangers, np.concatenate(list(found)), limits.width)[1]
    best = max(ratios)
    return Attempt(
        figures=Reconstruction(
            setting=setting,
            model=round_.plan.model.name,
            examples=len(ratios),
            recovered=sum(ratio > RECOVERED for ratio in ratios),
            exact=sum(ratio > EXACT for ratio in ratios),
            by_chance=sum(ratio > RECOVERED for ratio in strangers),
            best=best if np.isfinite(best) else None,
        ),
        originals=np.concatenate(list(originals)),
        found=np.asarray(closest),
        ratios=tuple(ratios),
    )
