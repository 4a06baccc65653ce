"""Charts as SVG, written by hand: they follow a dark page, need no script and no import that takes half a second."""

from hansa_server.report.charts.bars import Group, bar_chart
from hansa_server.report.charts.importance import heat_grid, importance_chart
from hansa_server.report.charts.line import Point, Series, line_chart
from hansa_server.report.charts.matrix import confusion_chart, cross_site_chart, partition_chart
from hansa_server.report.charts.reliability import reliability_chart
from hansa_server.report.charts.spread import SpreadRow, spread_chart
from hansa_server.report.charts.svg import nice_ticks

__all__ = [
    "Group",
    "Point",
    "Series",
    "SpreadRow",
    "bar_chart",
    "confusion_chart",
    "cross_site_chart",
    "heat_grid",
    "importance_chart",
    "line_chart",
    "nice_ticks",
    "partition_chart",
    "reliability_chart",
    "spread_chart",
]
