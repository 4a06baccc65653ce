"""The page and the terminal's table of what each site contributes."""

from rich.table import Table
from rich.text import Text

from hansa_server.report import notation
from hansa_server.report.charts import SpreadRow, spread_chart
from hansa_server.report.templates import make_environment
from hansa_server.trials.contribution import Receipt, SignedReceipt, SiteContribution
from hansa_server.trials.writing import Writer, higher_is_better

WIDE, NARROW = 900.0, 360.0  # px

_ENVIRONMENT = make_environment()
_ENVIRONMENT.filters |= {"plural": notation.plural, "moment": notation.moment}


def write_worth(value: float, writer: Writer) -> str:
    """Write what a coalition's model is worth, as the figure that it is: an error is above zero again."""
    return writer.value(value if higher_is_better(writer.figure) else -value)


def with_deviation(site: SiteContribution, writer: Writer) -> str:
    """Write mean and deviation over the seeds."""
    return writer.gain(site.mean) + writer.deviation(site.deviation)


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
    writer = Writer(figure=receipt.figure)
    charts = [
        spread_chart(
            f"Contribution of each site to the {writer.name}: each seed, and the mean",
            rows,
            width=width,
            write=writer.gain,
            write_tick=writer.gain_tick,
            zero=True,
        )
        for width in (WIDE, NARROW)
    ]
    return _ENVIRONMENT.get_template("contribution.html.jinja").render(
        receipt=receipt,
        organisation=signed.organisation,
        charts=charts,
        figure=writer.name,
        gain_unit=writer.gain_unit,
        is_error=not higher_is_better(receipt.figure),
        rows=[
            (site.site, with_deviation(site, writer), [writer.gain(value) for value in site.values]) for site in ordered
        ],
        whole=write_worth(whole, writer),
        nothing=write_worth(nothing, writer),
    )


def terminal_table(receipt: Receipt) -> Table:
    """Return the table for a terminal, the largest contribution first."""
    writer = Writer(figure=receipt.figure)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("")
    table.add_column(f"contribution, {writer.gain_unit or writer.name}", justify="right")
    for site in sorted(receipt.sites, key=lambda site: -site.mean):
        table.add_row(Text(site.site), with_deviation(site, writer))
    return table


def sentence(receipt: Receipt) -> str:
    """Say what the values are and what they add up to."""
    whole, nothing = whole_and_nothing(receipt)
    writer = Writer(figure=receipt.figure)
    kind = "Shapley values, which add up" if receipt.method == "exact" else "What is lost without each; no sum"
    return f"{kind}. All sites: {write_worth(whole, writer)}, untrained: {write_worth(nothing, writer)}."
