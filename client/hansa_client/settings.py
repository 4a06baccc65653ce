"""``site.toml``: what a site decides by itself. No coordinator can change any of it, nor see it."""

import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from hansa_common.contract import Text
from hansa_common.files import write_whole
from hansa_common.settings import Strict, parse, read_toml
from hansa_common.simulation_plan import SourcePlan

_TASK_SECONDS: Final = 6 * 3_600.0

HostPort = Annotated[str, Field(pattern=r"^[^\s/@]{1,255}:[0-9]{1,5}$")]
PopulationName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
AppReference = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,199}:[A-Za-z_][A-Za-z0-9_.]{0,99}$")]


class LimitSettings(Strict):
    """``[limits]``: what a task may take."""

    memory_mb: Annotated[
        int, Field(ge=256, le=10_000_000, description="Megabytes of memory of the worker; above it, it is replaced.")
    ] = 16_000
    task_seconds: Annotated[
        float, Field(gt=0.0, le=30 * 86_400.0, description="Seconds for one task, whatever the coordinator allows.")
    ] = _TASK_SECONDS
    max_task_mb: Annotated[
        int, Field(ge=1, le=1_000_000, description="Megabytes of one task as it comes in; larger is refused.")
    ] = 8_000
    max_model_mb: Annotated[
        int, Field(ge=1, le=1_000_000, description="Megabytes of a model that this site trains and sends out.")
    ] = 8_000
    min_free_disk_mb: Annotated[
        int, Field(ge=0, le=100_000_000, description="Megabytes of disk that stay free; below it, tasks are refused.")
    ] = 1_000
    worker_processes: Annotated[
        int, Field(ge=1, le=100_000, description="Processes and threads that the worker may have.")
    ] = 512
    worker_files: Annotated[
        int, Field(ge=64, le=1_000_000, description="Files that the worker may have open at a time.")
    ] = 1_024
    max_file_mb: Annotated[
        int,
        Field(ge=1, le=1_000_000, description="Megabytes of one file that the worker writes to its scratch folder."),
    ] = 8_000


class WorkerSettings(Strict):
    """``[worker]``: how the process that trains is shut in."""

    network: Annotated[
        Literal["none", "allowed"],
        Field(
            description='"none": the worker gets no network, as far as this machine can take it away; '
            '"allowed" takes nothing away.'
        ),
    ] = "none"


class PolicySettings(Strict):
    """``[policy]``: what a plan must have before anything runs here, approved or not."""

    secure_aggregation: Annotated[
        Literal["optional", "required"],
        Field(description='"required": refuse plans in which the coordinator can read this site\'s own update.'),
    ] = "optional"
    minimum_sites: Annotated[
        int,
        Field(ge=3, le=100, description="Fewest sites whose sum may be opened, in plans with secure aggregation."),
    ] = 3
    differential_privacy: Annotated[
        Literal["optional", "required"],
        Field(description='"required": refuse plans without differential privacy.'),
    ] = "optional"
    most_attempts: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="How often this site answers one step of a plan, such as a round's training or the evaluation; "
            "each time is another look at its data.",
        ),
    ] = 100
    site_figures: Annotated[
        bool,
        Field(
            description="Let sizes and counts of this site alone leave beside the masked ones, for a report with a bar "
            "for each site; never with differential privacy."
        ),
    ] = False


class PopulationSettings(Strict):
    """``[populations.NAME]``: people whose privacy is spent, whichever file their data lies in."""

    studies: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the plans that use their data; ``default`` for all that are not named anywhere."""
    person: Text | None = None
    """The column that says whose a row is; left out where each row is a person of its own."""


class SiteSettings(Strict):
    """Settings of one site; ``description`` is what stands beside each in the file."""

    proxy: Annotated[
        HostPort | None,
        Field(description="HTTP CONNECT proxy, as host:port. Without this line the site connects directly."),
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        Field(description='Where training runs; "auto" takes a CUDA GPU where there is one.'),
    ] = "auto"
    limits: LimitSettings = LimitSettings()
    worker: WorkerSettings = WorkerSettings()
    policy: PolicySettings = PolicySettings()
    data: dict[str, SourcePlan] = Field(default_factory=dict)
    """By the name of a study; ``default`` for studies that are not named."""
    apps: dict[str, AppReference] = Field(default_factory=dict)
    """Other Flower apps that this site lets run: any name -> ``module:attribute`` of the ClientApp."""
    populations: dict[PopulationName, PopulationSettings] = Field(default_factory=dict)
    """Whose privacy each study spends; studies with differential privacy need one."""

    def source(self, study: str) -> SourcePlan | None:
        """Return where this site's data for a study lies; ``None`` where the settings do not say."""
        return self.data.get(study, self.data.get("default"))

    def population(self, study: str) -> tuple[str, PopulationSettings] | None:
        """Return name and settings of those whose data a study uses; ``None`` where the settings do not say."""
        for wanted in (study, "default"):
            for name, population in self.populations.items():
                if wanted in population.studies:
                    return name, population
        return None


_EXAMPLES: Final = """\
# Where this site's data lies: a section for each study, by the name in its plan, and [data.default] for the others.
# A path that is not absolute is counted from this file's folder. Adapters: csv, parquet, npz, image_folder and others.
#
# [data.default]
# adapter = "csv"
# path = "/data/patients.csv"
# weights = "/data/weights"     # folder with the weight files that a plan's model starts from, where one does

# Whose privacy a study spends: needed by studies with differential privacy. The budget is fixed once, with
# 'hansa site budget'. person: the column that says whose a row is; left out where each row is a person of its own.
#
# [populations.patients]
# studies = ["default"]
# person = "patient_id"

# Other Flower apps that this site lets run, beside approving each study: any name, then the installed ClientApp.
#
# [apps]
# quickstart = "quickstart.client_app:app"
"""


def write_settings(path: Path) -> None:
    """Write every setting with its default, and above it what it is for.

    Raises:
        StorageError: The disk fails.
    """
    defaults = SiteSettings()
    lines = [
        "# Settings of this site. An unknown key is an error; the site reads the file when it starts.",
        "",
        f"# {SiteSettings.model_fields['proxy'].description}",
        '# proxy = "proxy.example.org:3128"',
        "",
        *_lines(defaults, ("device",)),
    ]
    for name in ("limits", "worker", "policy"):
        section: Strict = getattr(defaults, name)
        lines += [f"[{name}]", *_lines(section, tuple(type(section).model_fields))]
    write_whole(path, ("\n".join(lines) + "\n" + _EXAMPLES).encode(), mode=0o600)


def _lines(settings: Strict, names: tuple[str, ...]) -> list[str]:
    fields = type(settings).model_fields
    return [
        line for name in names for line in (f"# {fields[name].description}", f"{name} = {_toml(settings, name)}", "")
    ]


def _toml(settings: Strict, name: str) -> str:
    return json.dumps(getattr(settings, name), ensure_ascii=False)


def read_settings(path: Path) -> SiteSettings:
    """Read the file; data paths become absolute, counted from the file's folder.

    Raises:
        SettingsError: A key is unknown, missing or wrong.
    """
    settings = parse(SiteSettings, read_toml(path), origin=str(path))
    folder = path.resolve().parent
    data: dict[str, Any] = {
        study: source.model_copy(
            update={
                key: str(folder / value) for key in ("path", "weights") if (value := getattr(source, key)) is not None
            }
        )
        for study, source in settings.data.items()
    }
    return settings.model_copy(update={"data": data})
