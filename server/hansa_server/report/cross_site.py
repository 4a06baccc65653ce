"""The federation's model and each site's own on every site's test split: the picture, and what it says."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from hansa_common.metrics import IS_HIGHER_BETTER
from hansa_server.report import columns
from hansa_server.report.charts import cross_site_chart
from hansa_server.results import CrossSite, Results

FEDERATION = "the federation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What the page shows.

    Attributes:
        chart: Markup.
        sentence: What the chart says, in words.
    """

    chart: str
    sentence: str


def cross_site(results: Results) -> Picture | None:
    """Return the picture; ``None`` where not every model was tested at every site."""
    matrix = results.baselines.cross_site if results.baselines is not None else None
    if matrix is None:
        return None
    rows = dict(zip(matrix.sites, matrix.local_only, strict=True))
    if any(value is not None for value in matrix.federated):
        rows = {FEDERATION: matrix.federated} | rows
    name = columns.main_name(results)
    whose = f"{FEDERATION} and of each site" if FEDERATION in rows else "the sites"
    unit = f", {columns.main_unit(results)}," if columns.main_unit(results) else ""
    chart = cross_site_chart(
        f"{name[0].upper()}{name[1:]}{unit} of the models of {whose}, tested at every site",
        tuple(rows),
        matrix.sites,
        tuple(rows.values()),
        is_higher_better=IS_HIGHER_BETTER[matrix.figure],
        write=lambda value: columns.bare_main(results, value),
    )
    return Picture(chart=chart, sentence=_sentence(results, matrix))


def _sentence(results: Results, matrix: CrossSite) -> str:
    """Say how a site's own model does at home, how it does elsewhere, and how the federation's does."""
    size = range(len(matrix.sites))
    home = _mean(matrix.local_only[site][site] for site in size)
    away = _mean(matrix.local_only[model][site] for model in size for site in size if model != site)
    common = _mean(matrix.federated)
    if home is None or away is None:
        return ""

    def write(value: float | None) -> str:
        return columns.write_main(results, value)

    own = f"Mean {columns.main_name(results)} of the sites' own models: {write(home)} at home, {write(away)} elsewhere"
    return f"{own}; of the federation's model: {write(common)}." if common is not None else f"{own}."


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return fmean(found) if found else None
