"""Models of one plan as one: the simulated sites count what their mean answer gets right, by the federation's figures.

Members are the sites' own models of a simulation (``[personalisation]``), models of runs with other seeds, or files
that institutions handed over: a real site's own model never leaves it unless its people take the file out. Each site
evaluates in the closing exchange of a study that only opens and closes, so counts are exact and merged as ever.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from hansa_common.ensemble_plan import MOST_MEMBERS, VERSIONS
from hansa_common.errors import StudyFailed, UsageError
from hansa_common.messages import (
    Envelope,
    Evaluated,
    EvaluateTask,
    Initial,
    InitialTask,
    Message,
    OpenTask,
    Refusal,
    decode,
    encode,
)
from hansa_common.metrics import Counts, MainFigure, main_figure
from hansa_common.parameters import ParameterSpec, Vector
from hansa_common.plan import StudyPlan, parse_plan, read_plan
from hansa_common.prepared import PREPROCESSING, Prepared
from hansa_common.privacy_plan import PrivacyPlan
from hansa_common.protection import kind_of
from hansa_common.settings import Strict
from hansa_server.figures import main_figure_of, mean_over_sites, merge, scores_of, worst
from hansa_server.results import Results, Scores, WorstSite
from hansa_server.simulation import check, inline_sites

_PERSONAL = "sites/*/personal.safetensors"
_MODEL = "model.safetensors"
Site = Callable[[Envelope], Envelope]


class Together(Strict):
    """What models of one plan reach as one."""

    study: str
    members: tuple[str, ...]
    sites: dict[str, Scores]
    """On each site's test split."""
    weighted_mean: Scores
    """All test examples together: computed from merged counts."""
    site_mean: Scores
    worst_site: WorstSite
    common: dict[str, Scores]
    """What the run's common model reached there; empty where the data are others, or there is no such run."""
    personal: dict[str, Scores]
    """The same of each site's own model, at that site."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is put together, and where it is tested.

    Attributes:
        plan: With ``[simulation]``: its sites test.
        members: Files of one model each.
        prepared: What is done to the features first.
        before: What the run reached that the members are of, on the same examples.
    """

    plan: StudyPlan
    members: tuple[Path, ...]
    prepared: Prepared | None = None
    before: Results | None = None


def ask_about(study: Path, models: Sequence[Path], data: str | None) -> Question:
    """Return the question that a command line asks.

    Args:
        study: A run's folder, or a study file.
        models: Files and folders of models; the own models of a run's sites where left out.
        data: A file or folder in place of the plan's.

    Raises:
        UsageError: There are not 2 to 100 models.
        HansaError: The study cannot be read.
    """
    is_run = study.is_dir()
    plan = read_plan(study / "plan.toml" if is_run else study)
    members = [file for model in models for file in _files_of(model)]
    if not models and is_run:
        members = sorted(study.glob(_PERSONAL), key=lambda path: (len(path.parent.name), path.parent.name))
    if not 2 <= len(members) <= MOST_MEMBERS:  # noqa: PLR2004 - one answers alone
        raise UsageError(
            f"{len(members)} models: an ensemble has 2 to {MOST_MEMBERS}.",
            advice="Name files or folders of models; without any the study is a run whose plan has [personalisation].",
        )
    before = _results(study) if is_run and data is None else None
    if data is not None and plan.simulation is not None:
        source = plan.simulation.data.model_copy(update={"path": data})
        plan = plan.model_copy(update={"simulation": plan.simulation.model_copy(update={"data": source})})
    prepared = None
    if plan.preprocessing.needs_statistics:
        prepared = _prepared(study if is_run else members[0].parent)
    return Question(plan=plan, members=tuple(members), prepared=prepared, before=before)


def _files_of(model: Path) -> list[Path]:
    """Return the model that a path names: a file, the last one of a run or at a site, or all of ``versions``."""
    if model.is_file():
        return [model]
    if (model / _MODEL).is_file():
        return [model / _MODEL]
    if model.name == VERSIONS and (found := sorted(model.glob("*.safetensors"))):
        return found
    raise UsageError(
        f"{model} {'holds no model' if model.exists() else 'does not exist'}.",
        advice=f"Name a .safetensors file, a folder with {_MODEL}, or one of versions.",
    )


def _results(run: Path) -> Results | None:
    try:
        return Results.model_validate_json((run / "metrics.json").read_bytes())
    except (OSError, ValidationError):
        return None


def _prepared(folder: Path) -> Prepared:
    path = folder / PREPROCESSING
    try:
        return Prepared.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError(
            f"The plan prepares features by all sites' statistics, and {path} cannot be read.",
            advice=f"Put {PREPROCESSING} of the study beside the models.",
        ) from error


def evaluate_together(question: Question) -> Together:
    """Have each simulated site count what the members get right as one, on its test split.

    Raises:
        UsageError: The plan cannot be simulated, or a file holds no model of it.
        StudyFailed: A site refuses.
        HansaError: The data cannot be read.
    """
    plan = _closing_only(question.plan, len(question.members))
    names = check(plan)
    sites = dict(zip(names, inline_sites(len(names)).values(), strict=True))
    for name, site in sites.items():
        _ask(name, site, Message(header=OpenTask(plan=plan.model_dump_json())), plan)
    first = names[0]
    header = _ask(first, sites[first], Message(header=InitialTask(plan_digest=plan.digest())), plan).header
    assert isinstance(header, Initial)
    vector = np.concatenate([read_model(member, header.spec) for member in question.members])
    task = Message(header=EvaluateTask(plan_digest=plan.digest(), prepared=question.prepared), vector=vector)
    counts: dict[str, Counts] = {}
    for name, site in sites.items():
        reply = _ask(name, site, task, plan)
        assert isinstance(reply.header, Evaluated)
        counts[name] = reply.counts["ensemble"]
    return _summarised(question, counts)


def _closing_only(plan: StudyPlan, members: int) -> StudyPlan:
    """Return the plan of a study whose last versions the members would be.

    All happens on this machine and nothing leaves it: neither masks nor noise are in the way, and each member is whole.
    """
    evaluation = plan.evaluation.model_copy(update={"ensemble": members, "explain": None})
    rounds = plan.rounds.model_copy(update={"count": max(members, plan.rounds.count)})
    changes = {"evaluation": evaluation, "rounds": rounds, "personalisation": None, "privacy": PrivacyPlan()}
    return parse_plan(plan.model_copy(update=changes).model_dump(mode="json"))


def _ask(name: str, site: Site, message: Message, plan: StudyPlan) -> Message:
    reply = decode(site(encode(message)), kind=kind_of(plan))
    if isinstance(reply.header, Refusal):
        raise StudyFailed(f"{name}: {reply.header.reason}")
    return reply


def read_model(path: Path, spec: ParameterSpec) -> Vector:
    """Return the model of a file, ``float32 [P]``, in the order of the plan's tensors.

    Raises:
        UsageError: It is no such file, or holds another model.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            found: dict[str, npt.NDArray[np.generic]] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, TypeError) as error:
        raise UsageError(f"{path} cannot be read as a model: {error}") from error
    expected = {tensor.name: tensor.shape for tensor in spec.tensors}
    if {name: values.shape for name, values in found.items()} != expected:
        raise UsageError(
            f"{path} holds another model than the plan's: other tensors, or of other shapes.",
            advice="Where layers stay at the sites, take personal.safetensors of each: only these are whole.",
        )
    return np.concatenate([found[name].astype(np.float32).reshape(-1) for name in expected])


def figure_of(plan: StudyPlan) -> MainFigure:
    """Return what the models of a plan are compared by."""
    return main_figure(kind_of(plan).zero(histograms=False))


def _summarised(question: Question, counts: Mapping[str, Counts]) -> Together:
    sites = {name: scores_of(found) for name, found in counts.items()}
    before = question.before.sites if question.before is not None else ()
    return Together(
        study=question.plan.name,
        members=tuple(str(member) for member in question.members),
        sites=sites,
        weighted_mean=scores_of(merge(counts)),
        site_mean=mean_over_sites(sites),
        worst_site=worst(sites, main_figure_of(counts)),
        common={site.site: site.federated for site in before if site.federated is not None},
        personal={site.site: site.personal for site in before if site.personal is not None},
    )
