"""``hansa site``: what a partner organisation runs beside its data."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hansa_common.errors import HansaError, PeerRefused, Unreachable, UsageError

if TYPE_CHECKING:  # --help must not wait for gRPC
    from hansa_client.folder import SiteFolder
    from hansa_client.own_figures import OwnFigure
    from hansa_common.organisation import BindingRequest
    from hansa_common.roster import SignedBinding
    from hansa_common.wire.protocol import Proposal

app = typer.Typer(
    no_args_is_help=True, help="A partner's site: joins once, approves each study, trains on its own data."
)

DEFAULT_FOLDER = Path("hansa-site")
VARIABLE = "HANSA_ORG_PASSPHRASE"
Folder = Annotated[Path, typer.Option(help="The site's folder.", envvar="HANSA_SITE")]
Study = Annotated[str, typer.Argument(help="Id of the study, as 'hansa site review' shows it.")]


@app.command()
def join(
    invitation: Annotated[str, typer.Argument(help="The invitation's string, or a file that holds it.")],
    *,
    folder: Folder = DEFAULT_FOLDER,
    binding: Annotated[Path | None, typer.Option(help="What 'hansa org sign' answered to the request.")] = None,
    same_machine: Annotated[
        bool, typer.Option("--same-machine", help="Sign with the organisation's key at once: it is on this machine.")
    ] = False,
    organisation: Annotated[Path, typer.Option(help="Its folder, with --same-machine.")] = Path("hansa-org"),
    passphrase_file: Annotated[
        Path | None, typer.Option(help=f"With --same-machine: the key's passphrase; else {VARIABLE}, else asked.")
    ] = None,
) -> None:
    """Join a federation: keys are made here and never leave; run it again with --binding."""
    from hansa_client.enrolment import join as enrol  # noqa: PLC0415
    from hansa_client.enrolment import prepare  # noqa: PLC0415
    from hansa_client.folder import SiteFolder  # noqa: PLC0415
    from hansa_common.invitation import read_invitation  # noqa: PLC0415
    from hansa_common.organisation import read_document, write_document  # noqa: PLC0415
    from hansa_common.roster import SignedBinding  # noqa: PLC0415

    given = read_invitation(_text(invitation))
    site = SiteFolder(folder)
    request = prepare(site, given)
    if same_machine:
        signed = _signed_before(site, request) or _sign_here(request, organisation, passphrase_file)
    elif binding is not None:
        signed = read_document(binding, SignedBinding)
    else:
        path = folder / "binding-request.json"
        write_document(path, request)
        typer.echo(f"Keys of {given.site} are made. Fingerprint: {request.fingerprint()}")
        typer.echo(f"Your organisation signs: hansa org sign {path}")
        typer.echo("Then run this again with --binding FILE.")
        return
    reply = enrol(site, given, signed)
    until = datetime.fromtimestamp(reply.expires, UTC).strftime("%Y-%m-%d %H:%M UTC")
    typer.echo(f"{given.site} has joined {given.federation}; its certificate is good until {until}, and renews itself.")
    typer.echo(f"Fingerprint, to read to the founder over the phone: {signed.binding.fingerprint()}")
    typer.echo(f"Next: name your data in {folder / 'site.toml'}, then: hansa site check --folder {folder}")
    typer.echo(f"Once the founder has admitted {given.site}: hansa site start --folder {folder}")


@app.command()
def check(*, folder: Folder = DEFAULT_FOLDER) -> None:
    """Look at everything that a study needs, and say what to do about what is missing."""
    from hansa_client.folder import SiteFolder  # noqa: PLC0415
    from hansa_client.preflight import inspect  # noqa: PLC0415

    site = SiteFolder(folder)
    site.membership()
    table = Table.grid(padding=(0, 2))
    is_ready = True
    for line in inspect(site):
        mark = {"ok": Text("ok", style="green"), "note": Text("note", style="yellow")}.get(
            line.state, Text("MISSING", style="bold red")
        )
        table.add_row(mark, Text(line.name), Text(line.found))
        if line.advice:
            table.add_row("", "", Text(line.advice, style="dim"))
        is_ready &= line.state != "missing"
    Console().print(table)
    if not is_ready:
        raise typer.Exit(1)


@app.command()
def start(*, folder: Folder = DEFAULT_FOLDER) -> None:
    """Run the agent until it is told to stop."""
    from hansa_client.agent import run  # noqa: PLC0415
    from hansa_client.folder import SiteFolder  # noqa: PLC0415

    membership = SiteFolder(folder).membership()
    typer.echo(
        f"{membership.site} in {membership.federation}, connecting to {membership.address}. "
        f"Log: {folder / 'agent.log'}. Stop it with Ctrl-C."
    )
    run(folder)


@app.command()
def status(*, folder: Folder = DEFAULT_FOLDER) -> None:
    """Show what the agent does."""
    from hansa_client.control import ask  # noqa: PLC0415
    from hansa_client.folder import SiteFolder  # noqa: PLC0415

    membership = SiteFolder(folder).membership()
    answer = ask(folder, {"command": "status"})
    if answer is None:
        typer.echo(f"{membership.site}: no agent runs. Start it: hansa site start --folder {folder}")
        raise typer.Exit(1)
    table = Table.grid(padding=(0, 2))
    connected = f"yes, to {membership.address}" if answer["connected"] else f"no: {answer['problem']}"
    for name, value in (
        ("site", f"{membership.site} in {membership.federation}"),
        ("connected", connected),
        ("paused", "yes" if answer["paused"] else "no"),
        ("working on", answer["task"] or "nothing"),
        ("last task", answer["last_task"] or "none"),
        ("not yet sent", f"{answer['unsent']} replies"),
        ("certificate until", datetime.fromtimestamp(answer["certificate_until"], UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("worker", answer["worker"]),
        ("agent", f"pid {answer['pid']}, since {datetime.fromtimestamp(answer['since'], UTC):%Y-%m-%d %H:%M UTC}"),
    ):
        table.add_row(name, Text(str(value)))
    Console().print(table)


@app.command()
def pause(*, folder: Folder = DEFAULT_FOLDER) -> None:
    """Answer every task with a refusal, also the one under way, until 'resume'."""
    _command(folder, "pause")
    typer.echo("Paused. Tasks are refused until: hansa site resume")


@app.command()
def resume(*, folder: Folder = DEFAULT_FOLDER) -> None:
    """Take tasks again."""
    _command(folder, "resume")
    typer.echo("Goes on.")


@app.command()
def stop(*, folder: Folder = DEFAULT_FOLDER) -> None:
    """Stop the agent."""
    from hansa_client.control import ask  # noqa: PLC0415

    if ask(folder, {"command": "stop"}) is None:
        raise Unreachable(f"No agent runs in {folder}.", advice="Name another folder with --folder.")
    typer.echo("It stops.")


@app.command()
def leave(
    *,
    folder: Folder = DEFAULT_FOLDER,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not tell the coordinator: it is gone, or cannot be reached.")
    ] = False,
) -> None:
    """Leave the federation: keys, certificate and approvals are deleted; models and the record stay."""
    from hansa_client.enrolment import leave as say_goodbye  # noqa: PLC0415
    from hansa_client.folder import SiteFolder  # noqa: PLC0415

    site = SiteFolder(folder)
    own = (None if site.has_joined else site.request()) or site.membership()
    if not yes:
        typer.confirm(f"Leave {own.federation} and delete the keys of {own.site}?", abort=True)
    site.lock()
    if offline or not site.has_joined:
        site.forget()
        untold = "It was not asked."
    else:
        try:
            untold = say_goodbye(site)
        except Unreachable as error:
            raise Unreachable(
                f"{error.message} Nothing is deleted.",
                advice="Try again later, or leave without telling it: hansa site leave --offline",
            ) from None
    typer.echo(f"{own.site} has left {own.federation}: its keys and its certificate are deleted.")
    if untold:
        typer.echo(f"The coordinator was not told: {untold} If it still has {own.site}, let its operator know.")


@app.command()
def review(
    study: Annotated[str | None, typer.Argument(help="Id of the study; a list of all where left out.")] = None,
    *,
    folder: Folder = DEFAULT_FOLDER,
) -> None:
    """Show a proposed study in plain words: who asks, which data, what leaves, who gets the model."""
    from hansa_client.folder import SiteFolder  # noqa: PLC0415
    from hansa_client.review import describe  # noqa: PLC0415

    site = SiteFolder(folder)
    _fetch_proposals(site)
    answers = site.decisions()
    if study is None:
        for proposal in site.proposals():
            typer.echo(f"{proposal.study}  {_answer(answers, proposal)}")
        if not site.proposals():
            typer.echo("No study is proposed to this site.")
        return
    proposal = _find(site, study)
    typer.echo(describe(proposal, site.roster().roster, answer=_answer(answers, proposal)))
    where = "" if folder == DEFAULT_FOLDER else f" --folder {folder}"
    typer.echo(f"\nWhether your data fulfil it: hansa site check{where}")
    typer.echo(f"hansa site approve {proposal.study}{where}   or   hansa site refuse {proposal.study}{where}")


@app.command()
def approve(study: Study, *, folder: Folder = DEFAULT_FOLDER) -> None:
    """Approve exactly the plan that 'review' shows; its rounds run without further questions."""
    _decide(folder, study, approved=True)


@app.command()
def refuse(study: Study, *, folder: Folder = DEFAULT_FOLDER) -> None:
    """Refuse a study, also one that was approved: no further round of it runs here."""
    _decide(folder, study, approved=False)


@app.command()
def models(*, folder: Folder = DEFAULT_FOLDER) -> None:
    """List the models that this site was given."""
    from hansa_client.delivery import list_models  # noqa: PLC0415 - --help must not wait for it
    from hansa_client.folder import SiteFolder  # noqa: PLC0415

    SiteFolder(folder).check()
    typer.echo("\n".join(list_models(folder)) or "No model yet.")


@app.command()
def figures(*, folder: Folder = DEFAULT_FOLDER) -> None:
    """Show what this site's own data says of each study's models; these figures need not leave it."""
    from hansa_client.own_figures import all_figures  # noqa: PLC0415

    found = all_figures(folder)
    for study in found:
        typer.echo(study.study)
        for rounds, figure in sorted(study.validation.items()):
            typer.echo(f"  after {rounds:4} rounds  {_bar(figure)}  {figure.num_examples:,} validation examples")
        if study.test is not None:
            typer.echo(f"  the last model    {_bar(study.test)}  {study.test.num_examples:,} test examples")
        for title, tested in (("this site's own", study.personal), ("the ensemble", study.ensemble)):
            if tested is not None:
                typer.echo(f"  {title:16}  {_bar(tested)}  {tested.num_examples:,} test examples")
    if not found:
        typer.echo("No study has evaluated a model here yet.")


def _bar(figure: "OwnFigure") -> str:
    """Draw an accuracy as a bar of 20 characters."""
    if figure.value is not None:
        return f"{figure.figure.replace('_', ' '):20} {figure.value:7.4g} "
    if figure.accuracy is None:
        return f"{'not measured':29}"
    filled = round(20 * figure.accuracy)
    return f"{'█' * filled}{'░' * (20 - filled)} {figure.accuracy:7.1%} "


@app.command("log")
def show_log(*, folder: Folder = DEFAULT_FOLDER) -> None:
    """Show the record of everything that left or was refused, after checking that nobody changed it."""
    from hansa_client.folder import SiteFolder  # noqa: PLC0415
    from hansa_common.audit import read  # noqa: PLC0415

    SiteFolder(folder).check()
    number = 0
    for entry in read(folder / "journal.jsonl"):
        number = entry.number
        when = datetime.fromtimestamp(entry.time, UTC).strftime("%Y-%m-%d %H:%M:%S")
        details = "  ".join(f"{key}={value}" for key, value in entry.details.items())
        typer.echo(f"{entry.number:6}  {when}  {entry.event:20}  {details}")
    typer.echo(f"{number} entries, an unbroken chain.", err=True)


@app.command()
def budget(
    population: Annotated[str, typer.Argument(help="Name of the people whose privacy it is, such as 'patients'.")],
    *,
    epsilon: Annotated[str, typer.Option(help="All that may ever be spent of it.")],
    delta: Annotated[str, typer.Option(help="Well below 1 over the number of people.")],
    unit: Annotated[
        Literal["example", "site"], typer.Option(help="Whose privacy: a person's, or the whole site's.")
    ] = "example",
    relation: Annotated[
        Literal["add_or_remove_one", "replace_one"], typer.Option(help="When two data sets are neighbours.")
    ] = "add_or_remove_one",
    order: Annotated[int | None, typer.Option(help="Renyi order; the best for the budget where left out.")] = None,
    folder: Folder = DEFAULT_FOLDER,
) -> None:
    """Fix, once and for ever, how much privacy all studies together may spend of a population."""
    from hansa_client.folder import SiteFolder  # noqa: PLC0415
    from hansa_client.ledger import create  # noqa: PLC0415
    from hansa_common.privacy import Budget, Relation, Unit  # noqa: PLC0415

    SiteFolder(folder).membership()
    whole = Budget.of(epsilon, delta)
    made = create(
        folder / "ledger", population, unit=Unit(unit), relation=Relation(relation), budget=whole, order=order
    )
    typer.echo(f"'{population}' has epsilon {whole.epsilon} at delta {whole.delta}, at Renyi order {made.terms.order}.")


@app.command("ledger")
def show_ledger(
    population: Annotated[str | None, typer.Argument(help="Name of a population; all where left out.")] = None,
    *,
    folder: Folder = DEFAULT_FOLDER,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what was spent of each population's privacy, after checking that nobody changed the record."""
    from hansa_client.ledger import open_ledger, populations  # noqa: PLC0415
    from hansa_client.ledger_page import show, summarise  # noqa: PLC0415

    names = [population] if population else populations(folder / "ledger")
    pages = [summarise(open_ledger(folder / "ledger", name)) for name in names]
    if as_json:
        typer.echo(json.dumps(pages, indent=2))
        return
    for page in pages:
        show(page, Console())
    if not pages:
        typer.echo("No population has a privacy budget here. Fix one: hansa site budget POPULATION")


def _signed_before(site: "SiteFolder", request: "BindingRequest") -> "SignedBinding | None":
    """Return the binding of an enrolment that was interrupted: the invitation is good for that one only."""
    before = site.binding()
    return before if before is not None and before.binding.keys == request.keys else None


def _sign_here(request: "BindingRequest", organisation: Path, passphrase_file: Path | None) -> "SignedBinding":
    from hansa_common.organisation import OrganisationFolder, read_passphrase  # noqa: PLC0415
    from hansa_common.roster import sign_binding  # noqa: PLC0415

    own = OrganisationFolder(organisation)
    binding = request.answer(own.organisation, issued_at=int(time.time()))
    prompt = f"Passphrase of the key in {organisation}"
    return sign_binding(binding, own.unlock(read_passphrase(passphrase_file, variable=VARIABLE, prompt=prompt)))


def _text(invitation: str) -> str:
    path = Path(invitation)
    if len(invitation) < 200 and path.is_file():  # noqa: PLR2004 - no invitation is so short
        return path.read_text(encoding="utf-8", errors="replace")
    return invitation


def _fetch_proposals(site: "SiteFolder") -> None:
    """Ask for the newest where no agent does; what is known is shown where the coordinator cannot be reached.

    Raises:
        UsageError: The site has not joined.
    """
    from hansa_client.calls import call_federation  # noqa: PLC0415
    from hansa_client.control import ask  # noqa: PLC0415
    from hansa_common.wire.protocol import Empty, ProposalsReply  # noqa: PLC0415

    site.membership()
    if ask(site.path, {"command": "status"}) is not None:
        return
    try:
        for proposal in call_federation(site, "Proposals", Empty(), ProposalsReply).proposals:
            site.save_proposal(proposal)
    except (Unreachable, PeerRefused) as error:
        typer.echo(f"Not asked for news: {error}", err=True)


def _find(site: "SiteFolder", study: str) -> "Proposal":
    """Return a proposal by its id, or by the name of its plan where only one has it."""
    found = [
        proposal for proposal in site.proposals() if proposal.study == study or proposal.study.startswith(f"{study}-2")
    ]
    if len(found) == 1:
        return found[0]
    return site.proposal(study)


def _answer(answers: dict[str, Any], proposal: "Proposal") -> str:
    request = answers.get(proposal.digest)
    if request is None:
        return "not answered"
    return "approved" if request.decision.approved else "refused"


def _decide(folder: Path, study: str, *, approved: bool) -> None:
    from hansa_client.calls import call_federation  # noqa: PLC0415
    from hansa_client.control import ask  # noqa: PLC0415
    from hansa_client.folder import SiteFolder  # noqa: PLC0415
    from hansa_common.wire.protocol import Decision, Empty, sign_decision  # noqa: PLC0415

    site = SiteFolder(folder)
    _fetch_proposals(site)
    proposal, membership = _find(site, study), site.membership()
    if approved:
        _require_allowed(site, proposal)
    before = site.decisions().get(proposal.digest)
    earliest = before.decision.decided_at + 1 if before else 0  # the coordinator takes no answer older than the last
    decision = Decision(
        federation=membership.federation,
        site=membership.site,
        study=proposal.study,
        digest=proposal.digest,
        approved=approved,
        decided_at=max(int(time.time()), earliest),
    )
    request = sign_decision(decision, site.keys().signing)
    site.save_decision(request)
    typer.echo(f"{'Approved' if approved else 'Refused'}: {proposal.study}, plan {proposal.digest}")
    if ask(folder, {"command": "wake"}) is None:
        try:
            call_federation(site, "Decide", request, Empty)
        except HansaError as error:
            typer.echo(f"The coordinator is told when the agent runs: {error}", err=True)


def _require_allowed(site: "SiteFolder", proposal: "Proposal") -> None:
    """Refuse to sign what the site's own policy would then refuse to run."""
    from hansa_client import policy  # noqa: PLC0415
    from hansa_client.spending import Spending  # noqa: PLC0415
    from hansa_common.app_plan import AppPlan, read_any  # noqa: PLC0415

    plan = read_any(proposal.plan)
    if not isinstance(plan, AppPlan):
        settings = site.settings()
        policy.check(plan, settings)
        Spending(site.path / "ledger", settings).check(plan)


def _command(folder: Path, command: str) -> None:
    """Tell the agent, or, where none runs, leave it for the next one."""
    from hansa_client.control import ask  # noqa: PLC0415
    from hansa_client.folder import SiteFolder  # noqa: PLC0415

    site = SiteFolder(folder)
    site.membership()
    answer = ask(folder, {"command": command})
    if answer is None:
        site.set_paused(command == "pause")
    elif "error" in answer:
        raise UsageError(str(answer["error"]))
