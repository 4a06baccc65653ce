"""``hansa study compare``, ``sweep``, ``curve``, ``contribution`` and ``receipt``: several runs beside each other."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from hansa_common.errors import UsageError

if TYPE_CHECKING:  # --help must not wait for flwr
    from hansa_common.metrics import VerdictFigure
    from hansa_common.plan import StudyPlan
    from hansa_server.trials.runs import Run
    from hansa_server.trials.table import Kind
    from hansa_server.trials.variants import Variant

Engine = Literal["local", "inline", "ray"]
_Seeds = Annotated[str | None, typer.Option(help="Seeds, as 42,43,44; the plan's own where left out.")]
_Out = Annotated[Path | None, typer.Option(help="Folder of runs and table; give it again to go on after a stop.")]
_Workers = Annotated[int | None, typer.Option(min=1, help="Sites at a time; one for each core.")]
_EngineOption = Annotated[
    Engine, typer.Option(help="What carries the messages; inline is fastest for models that train in milliseconds.")
]
_QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")]
_Study = Annotated[Path, typer.Argument(help="Study file with [simulation].")]


def compare(
    studies: Annotated[list[Path], typer.Argument(help="Two study files or more, on one split.")],
    *,
    seeds: _Seeds = None,
    out: _Out = None,
    engine: _EngineOption = "local",
    workers: _Workers = None,
    quiet: _QuietOption = False,
) -> None:
    """Run several plans on one split and print one table: mean and spread over seeds, worst seed, worst site, cost."""
    from hansa_server.trials.variants import read_variants  # noqa: PLC0415 - --help must not wait for it

    if len(studies) < 2:  # noqa: PLR2004 - one cannot be compared
        raise UsageError("One plan cannot be compared.", advice="Name two study files or more.")
    variants = read_variants(studies)
    own = {variant.plan.seed for variant in variants}
    if seeds is None and len(own) > 1:
        raise UsageError(
            f"The plans have different seeds ({', '.join(map(str, sorted(own)))}), so different splits.",
            advice="Give the seeds for all of them: --seeds 42,43,44.",
        )
    _run("compare", variants, seeds, out, engine=engine, workers=workers, quiet=quiet)


def sweep(
    study: _Study,
    *,
    learning_rate: Annotated[str | None, typer.Option(help="Learning rates, as 1e-3,1e-2.")] = None,
    epochs: Annotated[str | None, typer.Option(help="Local epochs a round, as 1,2,5.")] = None,
    seeds: _Seeds = None,
    out: _Out = None,
    engine: _EngineOption = "local",
    workers: _Workers = None,
    quiet: _QuietOption = False,
) -> None:
    """Run a study with each learning rate and each number of local epochs, on one split."""
    from hansa_common.plan import read_plan  # noqa: PLC0415 - --help must not wait for it
    from hansa_server.trials.variants import read_numbers, read_whole_numbers  # noqa: PLC0415
    from hansa_server.trials.variants import sweep as swept  # noqa: PLC0415

    variants = swept(
        read_plan(study),
        learning_rates=read_numbers("--learning-rate", learning_rate),
        epochs=read_whole_numbers("--epochs", epochs),
    )
    _run("sweep", variants, seeds, out, engine=engine, workers=workers, quiet=quiet)


def curve(
    study: _Study,
    *,
    fractions: Annotated[
        str, typer.Option(help="Shares of each site's training data, as .1,.25,.5,1.")
    ] = ".1,.25,.5,.75,1",
    seeds: _Seeds = None,
    out: _Out = None,
    engine: _EngineOption = "local",
    workers: _Workers = None,
    quiet: _QuietOption = False,
) -> None:
    """Draw a learning curve: how good a study gets with a fraction of each site's training data."""
    from hansa_common.plan import read_plan  # noqa: PLC0415 - --help must not wait for it
    from hansa_server.trials.variants import fractions as shares_of  # noqa: PLC0415
    from hansa_server.trials.variants import read_numbers  # noqa: PLC0415

    variants = shares_of(read_plan(study), read_numbers("--fractions", fractions))
    _run("curve", variants, seeds, out, engine=engine, workers=workers, quiet=quiet)


def contribution(
    study: _Study,
    *,
    method: Annotated[
        Literal["exact", "leave-one-out"] | None,
        typer.Option(help="exact: Shapley values, for up to 10 sites; chosen by the study's size where left out."),
    ] = None,
    figure: Annotated[
        Literal["accuracy", "balanced_accuracy", "roc_auc", "loss", "c_index", "rmse", "reconstruction_error"] | None,
        typer.Option(help="What a model is judged by, on all sites' test examples together; by what was learned."),
    ] = None,
    seeds: _Seeds = None,
    out: _Out = None,
    organisation: Annotated[
        Path | None, typer.Option(help="Folder of the organisation's key that signs the receipt.", envvar="HANSA_ORG")
    ] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File with the key's passphrase; else HANSA_ORG_PASSPHRASE, else it is asked.")
    ] = None,
    quiet: _QuietOption = False,
) -> None:
    """Measure what each site contributes, by training again with subsets of the sites, and write a receipt."""
    from hansa_common import __version__  # noqa: PLC0415 - --help must not wait for it
    from hansa_common.files import write_whole  # noqa: PLC0415
    from hansa_common.organisation import VARIABLE, OrganisationFolder, read_passphrase  # noqa: PLC0415
    from hansa_common.plan import read_plan  # noqa: PLC0415
    from hansa_server.trials.coalitions import require_individual_updates  # noqa: PLC0415
    from hansa_server.trials.contribution import (  # noqa: PLC0415
        Receipt,
        SignedReceipt,
        contributions,
        measure,
        sign_receipt,
    )
    from hansa_server.trials.contribution_page import (  # noqa: PLC0415
        render_contributions,
        sentence,
        terminal_table,
        write_worth,
    )
    from hansa_server.trials.table import figure_of  # noqa: PLC0415
    from hansa_server.trials.writing import Writer  # noqa: PLC0415

    plan = read_plan(study)
    require_individual_updates(plan)
    judged = figure or figure_of(plan)
    writer = Writer(figure=judged)
    signer = OrganisationFolder(organisation) if organisation is not None else None
    prompt = f"Passphrase of {signer.organisation.name}" if signer else ""
    key = signer.unlock(read_passphrase(passphrase_file, variable=VARIABLE, prompt=prompt)) if signer else None
    folder = out or _new_folder(plan, "contribution")
    console = Console(quiet=quiet)

    def tell(seed: int, sites: frozenset[str], value: float, number: int, count: int) -> None:
        who = ", ".join(sorted(sites)) if sites else "no site"
        line = f"{number}/{count}  seed {seed}  {write_worth(value, writer)}  {who}"
        console.print(line, soft_wrap=True, markup=False, highlight=False)

    chosen = tuple(_seeds(seeds, plan))
    used, measured = measure(plan, chosen, folder, method=method, figure=judged, tell=tell)
    receipt = Receipt(
        study=plan.name,
        plan_digest=plan.digest(),
        simulation_digest=plan.simulation_digest(),
        figure=judged,
        method=used,
        seeds=chosen,
        sites=contributions(used, chosen, measured),
        measured=measured,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
    )
    signed = sign_receipt(receipt, signer.organisation, key) if signer and key else SignedReceipt(receipt=receipt)
    write_whole(folder / "receipt.json", (signed.model_dump_json(indent=2) + "\n").encode())
    write_whole(folder / "contribution.html", render_contributions(signed).encode())
    console.print(terminal_table(receipt))
    console.print(sentence(receipt), soft_wrap=True, markup=False, highlight=False)
    console.print(f"Receipt: {folder / 'receipt.json'}", soft_wrap=True, markup=False, highlight=False)


def receipt(
    file: Annotated[Path, typer.Argument(help="receipt.json of 'hansa study contribution'.")],
    *,
    key: Annotated[str | None, typer.Option(help="The public key that must have signed it, in hexadecimal.")] = None,
) -> None:
    """Check a receipt: that its contributions follow from its values, and who signed it."""
    from hansa_common.errors import IdentityError  # noqa: PLC0415
    from hansa_common.organisation import read_document  # noqa: PLC0415 - --help must not wait for it
    from hansa_server.trials.contribution import SignedReceipt, check_receipt  # noqa: PLC0415
    from hansa_server.trials.contribution_page import sentence, terminal_table  # noqa: PLC0415

    signed = read_document(file, SignedReceipt)
    check_receipt(signed)
    if key is not None and (signed.organisation is None or signed.organisation.key != key.lower()):
        raise IdentityError("The receipt is not signed with that key.", advice="Ask its sender who signed it.")
    console = Console()
    console.print(terminal_table(signed.receipt))
    console.print(sentence(signed.receipt), soft_wrap=True, markup=False, highlight=False)
    by = f"signed by {signed.organisation.name}, key {signed.organisation.key}" if signed.organisation else "unsigned"
    console.print(f"The contributions follow from the values; {by}.", soft_wrap=True, markup=False, highlight=False)


def _run(
    kind: "Kind",
    variants: "Sequence[Variant]",
    seeds: str | None,
    out: Path | None,
    *,
    engine: Engine,
    workers: int | None,
    quiet: bool,
) -> None:
    """Run all, write table and page, and print the table."""
    from hansa_common.files import write_whole  # noqa: PLC0415 - --help must not wait for it
    from hansa_server.engines.engine import Machine  # noqa: PLC0415
    from hansa_server.report.notation import plural  # noqa: PLC0415
    from hansa_server.trials.page import render, sentences, terminal_tables  # noqa: PLC0415
    from hansa_server.trials.runs import run_all  # noqa: PLC0415
    from hansa_server.trials.table import figure_of, tabulate  # noqa: PLC0415

    folder = out or _new_folder(variants[0].plan, kind)
    console = Console(quiet=quiet)
    chosen = _seeds(seeds, variants[0].plan)
    counts = f"{plural(len(variants), 'plan')}, {plural(len(chosen), 'seed')}"
    console.print(f"{counts}; folder {folder}", highlight=False, markup=False)
    machine = Machine(engine=engine, workers=workers)
    runs = run_all(variants, chosen, folder, machine=machine, tell=_Teller(console, figure_of(variants[0].plan)).tell)
    trials = tabulate(kind, variants, runs, folder)
    write_whole(folder / "compare.json", (trials.model_dump_json(indent=2) + "\n").encode())
    write_whole(folder / "compare.html", render(trials).encode())
    for table in terminal_tables(trials):
        console.print(table)
    for sentence in sentences(trials):
        console.print(sentence, soft_wrap=True, markup=False, highlight=False)
    console.print(f"Page: {folder / 'compare.html'}", soft_wrap=True, markup=False, highlight=False)


class _Teller:
    """A line for each run."""

    def __init__(self, console: Console, figure: "VerdictFigure") -> None:
        self._console, self._figure = console, figure

    def tell(self, run: "Run", number: int, count: int) -> None:
        """Say what a run reached."""
        from hansa_server.report import notation  # noqa: PLC0415
        from hansa_server.trials.writing import Writer  # noqa: PLC0415

        results = run.results
        whole = results.final.weighted_mean if results.final else None
        writer = Writer(figure=self._figure, unit=results.unit)
        reached = f"{writer.name} {writer.value(getattr(whole, self._figure) if whole else None)}"
        state = "" if results.status == "completed" else f"  {results.status}: {results.reason}"
        before = "" if run.is_new else "  (from before)"
        self._console.print(
            f"{number}/{count}  seed {run.seed}  {run.variant}  {reached}  "
            f"{notation.duration(results.timing.total_seconds)}{before}{state}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )


def _seeds(text: str | None, plan: "StudyPlan") -> list[int]:
    from hansa_server.trials.variants import read_whole_numbers  # noqa: PLC0415

    seeds = read_whole_numbers("--seeds", text) or [plan.seed]
    if len(set(seeds)) < len(seeds):
        raise UsageError("--seeds: a seed is there twice.")
    return seeds


def _new_folder(plan: "StudyPlan", kind: str) -> Path:
    return Path("runs") / f"{plan.name}-{kind}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
