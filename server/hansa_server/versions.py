"""The last versions of a study's model, which answer together as an ensemble (``evaluation.ensemble``).

    <run>/versions/000007.safetensors   the model after round 7, as model.safetensors is written

A round's version is written before its checkpoint and older ones are deleted after it, so whatever moment a run is
killed at, the versions up to its checkpoint are there; a version beyond it is replaced when its round is done again.
They lie on the disk only: as many as the plan asks for, and one while a round closes.
"""

from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hansa_common.ensemble_plan import VERSIONS
from hansa_common.errors import StorageError, StudyFailed
from hansa_common.files import storage, write_pieces
from hansa_common.parameters import MAX_PARAMETERS, ParameterSpec, Vector, chunks, sha256_of
from hansa_server import tensors
from hansa_server.vectors import keep


class Versions:
    """As many of the last versions as a plan asks for.

    Args:
        run: The run's folder.
        count: How many; 0 keeps none.
    """

    def __init__(self, run: Path, count: int) -> None:
        self._run = run
        self._folder = run / VERSIONS
        self._count = count

    def require(self, spec: ParameterSpec) -> None:
        """Return if they fit into one message, before anybody trains.

        Raises:
            StudyFailed: They do not.
        """
        if self._count * spec.size > MAX_PARAMETERS:
            raise StudyFailed(
                f"{self._count} versions of {spec.size:,} parameters are more than one exchange carries, which is "
                f"{MAX_PARAMETERS:,}.",
                advice="Lower evaluation.ensemble in a new plan.",
            )

    def add(self, number: int, spec: ParameterSpec, model: Vector) -> None:
        """Keep the version that round ``number`` gave, ``float32 [P]``.

        Raises:
            StorageError: The disk is full or fails.
        """
        if not self._count:
            return
        with storage(self._folder, "create"):
            self._folder.mkdir(exist_ok=True)
        write_pieces(self._path(number), tensors.pieces(dict(spec.split(model)), {"sha256": sha256_of(model)}))

    def tidy(self, number: int) -> None:
        """Delete what is older than the last versions, now that round ``number`` is in a checkpoint.

        Raises:
            StorageError: The disk fails.
        """
        if not self._count:
            return
        with storage(self._folder, "tidy"):
            for path in self._folder.glob("*.safetensors"):
                if not number - self._count < int(path.stem) <= number:
                    path.unlink()

    def rounds(self, last: int) -> tuple[int, ...]:
        """Return which rounds' versions answer together after round ``last``, the newest first."""
        return tuple(range(last, max(0, last - self._count), -1))

    def load(self, last: int, spec: ParameterSpec, model: Vector) -> Vector:
        """Return them one after the other, the newest first; large ones mapped.

        Args:
            last: Round that gave the last one.
            spec: Their tensors.
            model: ``float32 [P]``, the last one.

        Returns:
            ``float32 [count * P]``; ``model`` where none are kept.

        Raises:
            StorageError: One is missing or broken.
        """
        if not self._count:
            return model
        found = self.rounds(last)
        return keep((part for number in found for part in self._parts(number, spec)), len(found) * spec.size, self._run)

    def _parts(self, number: int, spec: ParameterSpec) -> Iterator[Vector]:
        path = self._path(number)
        try:
            with safe_open(path, framework="numpy") as file:
                for tensor in spec.tensors:
                    values: Vector = file.get_tensor(tensor.name)
                    if values.shape != tensor.shape or values.dtype != "float32":
                        raise StorageError(f"{path}: '{tensor.name}' is not that of the study's model.")
                    yield from chunks(values.reshape(-1))
        except (OSError, SafetensorError) as error:
            raise StorageError(
                f"{path} cannot be read back: {error}", advice="Restore it from a backup or start the study anew."
            ) from error

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.safetensors"
