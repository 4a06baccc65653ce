import xml.etree.ElementTree as ET
from collections.abc import Callable

from hansa_server.report import draw_partition, partition_svg
from hansa_server.results import Results

NS = "{http://www.w3.org/2000/svg}"


def test_it_is_a_file_of_its_own(make_results: Callable[..., Results]) -> None:
    root = ET.fromstring(partition_svg(make_results()))
    style = root.find(f"{NS}style")
    assert style is not None
    assert "prefers-color-scheme: dark" in (style.text or "")
    page = root.find(f"{NS}rect")
    assert page is not None
    assert page.get("class") == "page"
    assert page.get("width") == root.get("width")


def test_it_can_be_drawn_before_there_are_results(make_results: Callable[..., Results]) -> None:
    results = make_results()
    names = [site.site for site in results.sites]
    assert draw_partition(names, [site.class_counts for site in results.sites], results.classes) == partition_svg(
        results
    )
