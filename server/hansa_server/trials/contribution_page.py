"""The page and the terminal's table of what each site contributes."""

from rich.table import Table
from rich.text import Text

from hansa_server.report import notation
from hansa_server.report.charts import SpreadRow, spread_chart
from hansa_server.report.templates import make_environment
from hansa_server.trials.coalitions import Figure
from hansa_server.trials.contribution import Receipt, SignedReceipt, SiteContribution

WIDE, NARROW = 900.0, 360.0  # px

_ENVIRONMENT = make_environment()
_ENVIRONMENT.filters |= {"plural": notation.plural, "moment": notation.moment}


def write_value(value: float | None, figure: Figure) -> str:
    """Write what a coalition is worth: a share in percent, a loss and an area as they are."""
    if figure in ("accuracy", "balanced_accuracy"):
        return notation.percent(value)
    return notation.MISSING if value is None else f"{value:.4f}".replace("-", notation.MINUS)


def write_contribution(value: float | None, figure: Figure) -> str:
    """Write a difference: in points where the figure is a share."""
    if figure in ("accuracy", "balanced_accuracy"):
        return notation.points(value)
    return notation.MISSING if value is None else f"{value:+.4f}".replace("-", notation.MINUS)


def with_deviation(site: SiteContribution, figure: Figure) -> str:
    """Write mean and deviation over the seeds."""
    scale, form = (100.0, ".1f") if figure in ("accuracy", "balanced_accuracy") else (1.0, ".4f")
    spread = "" if site.deviation is None else f" ± {scale * site.deviation:{form}}"
    return write_contribution(site.mean, figure) + spread


def whole_and_nothing(receipt: Receipt) -> tuple[float, float]:
    """Return the means over the seeds of what the whole study and the untrained model are worth."""
    most = max(len(entry.sites) for entry in receipt.measured)
    whole = [entry.value for entry in receipt.measured if len(entry.sites) == most]
    nothing = [entry.value for entry in receipt.measured if not entry.sites]
    return sum(whole) / len(whole), sum(nothing) / len(nothing)


def render_contributions(signed: SignedReceipt) -> str:
    """Return ``contribution.html``: one page without scripts or external resources."""
    receipt = signed.receipt
    ordered = sorted(receipt.sites, key=lambda site: -site.mean)
    whole, nothing = whole_and_nothing(receipt)
    rows = [
        SpreadRow(name=site.site, values=site.values, notes=tuple(f"seed {seed}" for seed in receipt.seeds))
        for site in ordered
    ]
    in_points = receipt.figure in ("accuracy", "balanced_accuracy")
    charts = [
        spread_chart(
            f"Contribution of each site to the {receipt.figure}: each seed, and the mean",
            rows,
            width=width,
            write=lambda value: write_contribution(value, receipt.figure),
            write_tick=lambda value: f"{100 * value:g}" if in_points else f"{value:g}",
            zero=True,
        )
        for width in (WIDE, NARROW)
    ]
    return _ENVIRONMENT.get_template("contribution.html.jinja").render(
        receipt=receipt,
        organisation=signed.organisation,
        charts=charts,
        figure=receipt.figure.replace("_", " ").replace("roc auc", "ROC AUC"),
        rows=[
            (
                site.site,
                with_deviation(site, receipt.figure),
                [write_contribution(v, receipt.figure) for v in site.values],
            )
            for site in ordered
        ],
        whole=write_value(whole, receipt.figure),
        nothing=write_value(nothing, receipt.figure),
    )


def terminal_table(receipt: Receipt) -> Table:
    """Return the table for a terminal, the largest contribution first."""
    unit = "points" if receipt.figure in ("accuracy", "balanced_accuracy") else receipt.figure
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("")
    table.add_column(f"contribution, {unit}", justify="right")
    for site in sorted(receipt.sites, key=lambda site: -site.mean):
        table.add_row(Text(site.site), with_deviation(site, receipt.figure))
    return table


def sentence(receipt: Receipt) -> str:
    """Say what the values are and what they add up to."""
    whole, nothing = whole_and_nothing(receipt)
    kind = "Shapley values, which add up" if receipt.method == "exact" else "What is lost without each; no sum"
    return (
        f"{kind}. All sites: {write_value(whole, receipt.figure)}, untrained: {write_value(nothing, receipt.figure)}."
    )
