"""Reliability diagram: confidence against accuracy, and how many answers there are of each confidence.

Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks. ICML 2017, figure 1.
"""

from collections.abc import Callable, Sequence

from hansa_server.report.charts.svg import drawing, element, text, title

SIDE = 260.0  # px of the square
LEFT, RIGHT, TOP = 48.0, 20.0, 30.0
GAP, HISTOGRAM, BOTTOM = 12.0, 56.0, 42.0  # px: below the square the answers' numbers, then the axis
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
BASE = TOP + SIDE + GAP + HISTOGRAM
BAR = 10.0  # px; a fifteenth of the side is 17


def reliability_chart(
    label: str, bins: Sequence[tuple[float, float, int]], *, write: Callable[[float], str], count: Callable[[int], str]
) -> str:
    """Draw the curve over the diagonal of a model that can be believed; an empty string where there are no bins.

    Below it are bars whose height is the number of answers: a bend of few answers may be chance.

    Args:
        label: What the chart shows, for those who cannot see it.
        bins: Mean confidence, accuracy, number of answers, by rising confidence.
        write: Writes a share.
        count: Writes a number of answers.
    """
    if not bins:
        return ""
    most = max(examples for _, _, examples in bins)
    curve = " ".join(
        f"{'M' if index == 0 else 'L'}{_x(confidence):.1f} {_y(accuracy):.1f}"
        for index, (confidence, accuracy, _) in enumerate(bins)
    )
    parts = [
        *_axes(write),
        element("line", class_="line second", x1=_x(0.0), x2=_x(1.0), y1=_y(0.0), y2=_y(1.0)),
        element("path", class_="line first", d=curve),
    ]
    for confidence, accuracy, examples in bins:
        note = title(f"{write(confidence)} sure, {write(accuracy)} right, {count(examples)}")
        height = max(1.0, HISTOGRAM * examples / most)
        parts += [
            element("circle", note, class_="dot first", cx=_x(confidence), cy=_y(accuracy), r=4.0),
            element("rect", note, class_="mark", x=_x(confidence) - BAR / 2, y=BASE - height, width=BAR, height=height),
        ]
    return drawing(label, LEFT + SIDE + RIGHT, BASE + BOTTOM, *parts)


def _axes(write: Callable[[float], str]) -> list[str]:
    parts = [text("share that is right", 0, 12, class_="caption")]
    for tick in TICKS:
        parts += [
            element("line", class_="grid" if tick else "axis", x1=_x(0.0), x2=_x(1.0), y1=_y(tick), y2=_y(tick)),
            text(write(tick), LEFT - 8, _y(tick) + 4, class_="tick", text_anchor="end"),
            text(write(tick), _x(tick), BASE + 16, class_="tick", text_anchor="middle"),
        ]
    base = element("line", class_="axis", x1=_x(0.0), x2=_x(1.0), y1=BASE, y2=BASE)
    caption = text("confidence", _x(0.5), BASE + BOTTOM - 6, class_="caption", text_anchor="middle")
    return [*parts, base, caption]


def _x(share: float) -> float:
    return LEFT + share * SIDE


def _y(share: float) -> float:
    return TOP + (1.0 - share) * SIDE
