"""The models that a site was given: written whole to its own disk, and listed from there.

``models/<study>/`` in the site's folder holds ``model.safetensors``, its card, the site's own model where the study
makes one, what was done to the features before the model saw them, and in ``versions`` the last versions of the model,
where the study has an ensemble.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from hansa_client.site_state import hand_over
from hansa_common.ensemble_plan import VERSIONS
from hansa_common.errors import MessageError, TaskRefused
from hansa_common.files import storage, write_whole
from hansa_common.messages import DeliverTask, Message
from hansa_common.parameters import ParameterSpec, Vector, sha256_of
from hansa_common.plan import StudyPlan
from hansa_common.prepared import PREPROCESSING, is_asked_for


def keep_model(folder: Path, plan: StudyPlan, study: str, message: Message) -> DeliverTask:
    """Write a study's last model and its card.

    Args:
        folder: The site's.
        plan: The study as this site approved it.
        study: Its name at the coordinator.
        message: With a ``DeliverTask``.

    Raises:
        TaskRefused: The model belongs to another plan.
        MessageError: It is not what its header says, or lacks the preprocessing that the plan asks for.
        StorageError: The disk is full or fails.
    """
    header, vector = message.header, message.vector
    assert isinstance(header, DeliverTask)
    assert vector is not None
    if header.plan_digest != plan.digest():
        raise TaskRefused("The model belongs to another plan.")
    count = plan.evaluation.ensemble or 1
    if vector.size != header.spec.size * count:
        raise MessageError("The model has another size than its tensors.")
    versions = np.split(vector, count)  # the newest first
    vector = versions[0]
    if not is_asked_for(header.prepared, plan.preprocessing, plan.data):
        raise MessageError("The model does not come with the preprocessing that the plan asks for.")
    if sha256_of(vector) != header.sha256:
        raise MessageError("The model's bytes are not those that its digest is of.")
    path = folder / "models" / study
    with storage(path, "create"):
        path.mkdir(parents=True, exist_ok=True)
    about = {"study": study, "plan_digest": header.plan_digest, "sha256": header.sha256}
    write_whole(path / "model.safetensors", _file_of(header.spec, vector, about))
    _keep_versions(path / VERSIONS, header, study, versions if count > 1 else (), last=plan.rounds.count)
    write_whole(path / "MODEL_CARD.md", header.card.encode())
    hand_over(folder / "state" / header.plan_digest, path)
    if header.prepared is None:
        with storage(path, "tidy"):
            (path / PREPROCESSING).unlink(missing_ok=True)
    else:
        write_whole(path / PREPROCESSING, header.prepared.model_dump_json(indent=2).encode())
    return header


def _keep_versions(path: Path, header: DeliverTask, study: str, versions: Sequence[Vector], *, last: int) -> None:
    """Write the versions that answer together, named by the round that gave them, as the run's folder has them.

    Those of an earlier plan, whose study had this name, would answer with them: they go.
    """
    files = {f"{last - age:06d}.safetensors": version for age, version in enumerate(versions)}
    with storage(path, "tidy"):
        if files:
            path.mkdir(exist_ok=True)
        for older in path.glob("*.safetensors"):
            if older.name not in files:
                older.unlink()
    for name, version in files.items():
        about = {"study": study, "plan_digest": header.plan_digest, "sha256": sha256_of(version)}
        write_whole(path / name, _file_of(header.spec, version, about))


def _file_of(spec: ParameterSpec, vector: Vector, about: Mapping[str, str]) -> bytes:
    tensors = {name: np.ascontiguousarray(values) for name, values in spec.split(vector)}
    return save(tensors, dict(about))


def list_models(folder: Path) -> Iterator[str]:
    """Yield a few lines for each model that the site with this folder was given."""
    for path in sorted((folder / "models").glob("*/model.safetensors")):
        received = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")
        yield f"{path.parent.name}  {path.stat().st_size / 1e6:.1f} MB  {received}  {path}"
        yield f"  card: {path.with_name('MODEL_CARD.md')}"
        if members := sorted((path.parent / VERSIONS).glob("*.safetensors")):
            yield f"  the ensemble of the last {len(members)} versions: {members[0].parent}"
        if (own := path.with_name("personal.safetensors")).exists():
            yield f"  this site's own model: {own.stat().st_size / 1e6:.1f} MB  {own}"
