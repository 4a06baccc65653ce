"""The partition picture: who holds what, as an SVG file of its own (``partition.svg``) or inside the report."""

from collections.abc import Sequence
from importlib import resources

from hansa_server.report.charts import partition_chart
from hansa_server.results import Results


def partition_svg(results: Results) -> str:
    """Return ``partition.svg`` of a study: sites by classes, with its own background, light or dark.

    Sites that keep their class counts at home are not in it.
    """
    sites = [site for site in results.sites if site.class_counts]
    return draw_partition([site.site for site in sites], [site.class_counts for site in sites], results.classes)


def draw_partition(names: Sequence[str], class_counts: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Return the same picture before there are results: ``[S]`` names, ``[S][K]`` counts, ``[K]`` classes."""
    style = resources.files("hansa_server.report.charts").joinpath("charts.css").read_text(encoding="utf-8")
    return partition_chart(names, class_counts, classes, style=style)
