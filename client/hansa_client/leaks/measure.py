"""The whole audit: every attack without protection, then with it.

``hansa audit privacy`` finds this through the entry point ``measure_leaks`` of the group ``hansa.site``.
"""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from hansa_client.leaks import membership, one_run, reconstruction
from hansa_client.leaks.canaries import plant
from hansa_client.leaks.observation import trusts_the_coordinator
from hansa_client.leaks.pipeline import changed_plan
from hansa_client.leaks.reconstruction import Attempt
from hansa_client.leaks.rehearsed import rehearse
from hansa_client.leaks.similarity import Floats
from hansa_client.simulated import divide
from hansa_client.site_data import simulated_site
from hansa_common.contract import ImageContract
from hansa_common.errors import UsageError
from hansa_common.leakage import CanaryFigures, Leakage, MembershipFigures, Picture, Side
from hansa_common.plan import StudyPlan
from hansa_common.privacy_plan import FEWEST_MASKED
from hansa_common.seeds import derive_seed
from hansa_common.strategies import STRATEGIES

CANARIES = 100  # of one site, at most
FEWEST = 8  # canaries of all sites; fewer say nothing
_SHOWN = 4  # originals of one attack
_SUGGESTED = {"weights": "equal", "secure_aggregation": {"coordinate_range": 1.0, "cohort": "fixed"}}

Tell = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done."""


def measure(plan: StudyPlan, *, rounds: int | None, tell: Tell) -> tuple[Leakage, tuple[Picture, ...]]:
    """Run every attack on the study, once without protection and once with the plan's.

    A plan without protection is measured beside secure aggregation, to show what that would change.

    Args:
        plan: With ``[simulation]``.
        rounds: How many of the study's rounds to run; all where ``None``.
        tell: Told how far it is.

    Raises:
        UsageError: The study is too small to be audited, or its sites keep something from round to round.
        HansaError: Its data cannot be read, or its training failed.
    """
    if plan.keeps_state or plan.personalisation is not None:
        raise UsageError(
            "The audit attacks updates of sites that keep nothing of their own; this plan's sites do.",
            advice="Audit the plan with strategy = 'fedavg', without [personalisation], and with another codec than "
            "'topk'.",
        )
    if STRATEGIES[plan.aggregation.strategy].second_order:
        raise UsageError(
            "The audit attacks updates that come from training; this plan's sites send loss, gradient and Hessian.",
            advice="Audit the plan with strategy = 'fedavg'; what a Hessian tells is more than that.",
        )
    started, at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    names = divide(plan).names
    bare = changed_plan(plan, {"privacy": {}})
    asked = plan.privacy != bare.privacy
    if plan.preprocessing.needs_statistics:
        raise UsageError(
            "Leakage is measured on features as they are; the plan has preprocessing by the sites' statistics.",
            advice="Measure a study without [preprocessing].",
        )
    if plan.data.target is not None:
        raise UsageError(
            f"Leakage is measured for classes; data.target.kind is '{plan.data.target.kind}'.",
            advice="Measure a study with classes on the same features.",
        )
    if not asked and len(names) < FEWEST_MASKED:
        raise UsageError(
            "The plan asks for no protection, and secure aggregation needs three sites.",
            advice="Add [privacy] to the study file, or more sites.",
        )
    guarded = plan if asked else changed_plan(plan, {"privacy": _SUGGESTED})
    count = min(rounds or plan.rounds.count, plan.rounds.count)
    seed = derive_seed(plan.seed, "audit")
    sides, attempts = [], []
    for words, variant in (("without protection", bare), ("with protection", guarded)):
        side, made = _side(variant, len(names), count, seed, partial(_prefixed, tell, words))
        sides.append(side)
        attempts.append(made)
    noised = guarded.privacy.differential
    leakage = Leakage(
        study=plan.name,
        plan_digest=plan.digest(),
        model=plan.model.name,
        sites=len(names),
        rounds=count,
        rounds_planned=plan.rounds.count,
        started_at=at,
        seconds=time.monotonic() - started,
        data_origin=divide(plan).dataset.origin,
        protection=_protection(guarded),
        asked_for=asked,
        sums_only=guarded.privacy.secure_aggregation is not None or trusts_the_coordinator(guarded),
        trusts_coordinator=trusts_the_coordinator(guarded),
        claimed_epsilon=noised.epsilon if noised else None,
        claimed_delta=noised.delta if noised else None,
        unit=None if noised is None else "person" if noised.kind == "example" else "site",
        unprotected=sides[0],
        protected=sides[1],
    )
    return leakage, _pictures(plan, *attempts)


def _prefixed(tell: Tell, words: str, step: str, share: float) -> None:
    tell(f"{words}: {step}", share)


def _side(plan: StudyPlan, number: int, rounds: int, seed: int, tell: Tell) -> tuple[Side, tuple[Attempt, ...]]:
    sites = [simulated_site(plan, index) for index in range(number)]
    attempts = reconstruction.attack(plan, sites, seed=seed, tell=lambda share: tell("reconstruction", share))
    planted = plant(sites, per_site=CANARIES, classes=len(plan.data.classes), seed=seed)
    included = np.concatenate([site.included for site in planted])
    if len(included) < FEWEST:
        raise UsageError(
            f"The sites keep too few examples apart for canaries: {len(included)} in all.",
            advice="Use more data, or raise evaluation.test.",
        )
    seen = rehearse(plan, planted, lambda share: tell("training with canaries", share), rounds=rounds)
    delta = plan.privacy.differential.delta if plan.privacy.differential else 0.0
    found = membership.attack(seen.members, seen.others, seed=seed)
    bound = one_run.audit(included, seen.canaries, delta=delta)
    side = Side(
        reconstructions=tuple(attempt.figures for attempt in attempts),
        membership=MembershipFigures(**asdict(found)),
        canaries=CanaryFigures(**asdict(bound)),
    )
    return side, attempts


def _protection(plan: StudyPlan) -> str:
    """Return what protects the updates, in words."""
    parts = []
    masked, noised = plan.privacy.secure_aggregation, plan.privacy.differential
    if masked is not None:
        parts.append(f"secure aggregation in a ring of {masked.ring_bits} bits")
    if noised is not None:
        kind = {
            "example": "differential privacy of a person (DP-SGD at each site",
            "site_server": "differential privacy of a site (noise added by the coordinator",
            "site_distributed": "differential privacy of a site (noise added by the sites under masks",
        }[noised.kind]
        parts.append(f"{kind}; epsilon {noised.epsilon:g} at delta {noised.delta:g})")
    if not parts:
        parts.append(f"updates clipped to {plan.privacy.update_bound}")
    return " and ".join(parts)


def _pictures(plan: StudyPlan, bare: Sequence[Attempt], guarded: Sequence[Attempt]) -> tuple[Picture, ...]:
    """Return originals beside their reconstructions; nothing where examples are no images that can be shown."""
    if not isinstance(plan.data, ImageContract) or plan.data.channels not in (1, 3):
        return ()
    shape = plan.data.feature_shape
    return tuple(
        Picture(
            attack=first.figures.setting,
            original=_png(first.originals[place], shape),
            unprotected=_png(first.found[place], shape),
            protected=_png(second.found[place], shape) if place < len(second.found) else b"",
            unprotected_ratio=_finite(first.ratios[place]),
            protected_ratio=_finite(second.ratios[place]) if place < len(second.ratios) else None,
        )
        for first, second in zip(bare, guarded, strict=True)
        if first.figures.setting in ("batch_4", "matching")
        for place in range(min(_SHOWN, len(first.originals)))
    )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _png(values: Floats, shape: tuple[int, ...]) -> bytes:
    """Return an image ``[C * H * W]`` in 0..1 as PNG; nothing where it is none."""
    if not np.isfinite(values).all():
        return b""
    pixels: Any = np.rint(values.reshape(shape).transpose(1, 2, 0).clip(0.0, 1.0) * 255.0).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if shape[0] == 1 else pixels).save(content, "PNG", optimize=True)
    return content.getvalue()
