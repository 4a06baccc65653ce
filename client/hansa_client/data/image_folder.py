"""``image_folder``: ``path/<class>/<image>``.

With ``columns = "site"`` it is ``path/<site>/<class>/<image>``, with ``"person"`` ``path/<class>/<person>/<image>``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from hansa_client.data.class_names import index_names
from hansa_client.data.contract_check import check
from hansa_client.data.files import require_path
from hansa_client.data.learned import require_classes
from hansa_client.data.source import ADAPTERS, Dataset, Source
from hansa_common.contract import ImageContract
from hansa_common.errors import ContractViolation, DataUnavailable
from hansa_common.models.registry import Contract
from hansa_common.settings import Strict, parse

if TYPE_CHECKING:
    from PIL import Image

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_EIGHT_BITS = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})  # Pillow would clip deeper modes
_MAX_PIXELS = 50_000_000  # of one image; four times a common camera's, far below what Pillow calls a bomb
_SHOWN = 5


class ImageFolderOptions(Strict):
    """Options of the adapter ``image_folder``."""

    resize: bool = False
    """Bring images of another size to the contract's (bilinear); the shape is not kept."""
    columns: Literal["none", "site", "person"] = "none"
    """``site``: the folders at the top are sites, and the classes lie inside; splits by ``column:site``. ``person``: a
    class's folder holds one folder a person, of the same name in each class; for ``privacy.differential.unit``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    path: Path
    label: str
    group: str  # site or person


@ADAPTERS.register("image_folder")
def read(source: Source, contract: Contract) -> Dataset:
    """Return the PNG and JPEG images of a folder as ``uint8 [N, H, W, C]``, in the order of their names.

    Colours are converted to the contract's channels: 1 is grey, 3 is RGB, 4 is RGB with transparency.

    Raises:
        DataUnavailable: The folder is missing, or files are broken.
        ContractViolation: A folder is no class of the study, images have another size, or the contract is not for
            images of 1, 3 or 4 channels.
        SettingsError: An option is unknown or wrong.
    """
    options = parse(ImageFolderOptions, source.options, origin="data adapter 'image_folder'")
    root = require_path(source, adapter="image_folder", folder=True)
    if not isinstance(contract, ImageContract) or contract.channels not in _MODES:
        raise ContractViolation(
            "The data adapter 'image_folder' reads images with 1, 3 or 4 channels; the study asks for something else.",
            advice="Choose another data adapter.",
        )
    entries = _list(root, options)
    require_classes(contract, adapter="image_folder")
    names = [entry.label for entry in entries]
    known = contract.classes or tuple(sorted(set(names)))  # what is reconstructed needs no class
    labels = index_names(names, known, origin=str(root))
    features = _read_images(entries, contract, options)
    groups = np.asarray([entry.group for entry in entries])
    columns = {str(options.columns): groups} if options.columns != "none" else {}
    return check(Dataset(features=features, labels=labels, columns=columns, origin=str(root)), contract)


def _list(root: Path, options: ImageFolderOptions) -> list[_Entry]:
    match options.columns:
        case "none":
            layout, folders = "<class>/<image>", [(label, label.name, "") for label in _folders(root)]
        case "site":
            layout = "<site>/<class>/<image>"
            folders = [(label, label.name, site.name) for site in _folders(root) for label in _folders(site)]
        case "person":
            layout = "<class>/<person>/<image>"
            folders = [(person, label.name, person.name) for label in _folders(root) for person in _folders(label)]
    entries = [
        _Entry(path=path, label=label, group=group)
        for folder, label, group in folders
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
    ]
    if not entries:
        raise DataUnavailable(f"{root} holds no PNG or JPEG image in the layout {layout}.", advice="Check the path.")
    return entries


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read_images(entries: list[_Entry], contract: ImageContract, options: ImageFolderOptions) -> npt.NDArray[np.uint8]:
    images = np.zeros((len(entries), contract.height, contract.width, contract.channels), dtype=np.uint8)
    wrong: list[str] = []
    for position, entry in enumerate(entries):
        problem = _read_image(entry.path, images[position], resize=options.resize)
        if problem:
            wrong.append(f"{entry.path}: {problem}")
    if wrong:
        more = f"\nand {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ContractViolation(
            f"{len(wrong)} of {len(entries)} images do not fulfil the contract, {contract.height} x {contract.width} "
            "pixels (height x width) of 8 bits:\n" + "\n".join(wrong[:_SHOWN]) + more,
            advice="Correct these files, or set resize = true if only the size differs.",
        )
    return images


def _read_image(path: Path, target: npt.NDArray[np.uint8], *, resize: bool) -> str:
    """Write an image into ``uint8 [H, W, C]`` and return what is wrong with it, or an empty text.

    Raises:
        DataUnavailable: The file is broken.
    """
    from PIL import Image

    height, width, channels = target.shape
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            problem = _find_problem(image, height, width, resize=resize)
            if problem:
                return problem
            converted = image.convert(_MODES[channels])
            if converted.size != (width, height):
                converted = converted.resize((width, height), Image.Resampling.BILINEAR)
            target[:] = np.asarray(converted).reshape(target.shape)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
        raise DataUnavailable(
            f"{path} cannot be read as an image: {error}.", advice="Replace or remove the file."
        ) from error
    return ""


def _find_problem(image: "Image.Image", height: int, width: int, *, resize: bool) -> str:
    """Look at the header only, before memory for the pixels is taken."""
    if image.mode not in _EIGHT_BITS:
        return f"its pixels are of Pillow's mode {image.mode}, deeper than 8 bits"
    if image.size != (width, height) and not resize:
        return f"{image.height} x {image.width}"
    if image.width * image.height > _MAX_PIXELS:
        return f"{image.height} x {image.width} is more than {_MAX_PIXELS:,} pixels"
    return ""
