"""One study from opening to closing: the same on every engine.

Opening exchange (every site checks its data), initial parameters, rounds with a checkpoint each, closing exchange
(the last model on validation and test splits), baselines where asked for.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from hansa_common.contract import label_names
from hansa_common.errors import MessageError, StudyFailed, UpdateRefused, UsageError
from hansa_common.failpoints import reach
from hansa_common.messages import (
    Delivered,
    DeliverTask,
    Initial,
    InitialTask,
    Message,
    Opened,
    OpenTask,
    Refusal,
    TrainTask,
)
from hansa_common.parameters import ParameterSpec, Vector, chunks, is_finite
from hansa_common.plan import StudyPlan
from hansa_common.prepared import Prepared
from hansa_common.protection import counts_leave, kind_of, num_round_sums
from hansa_common.strategies import STRATEGIES
from hansa_common.transport import train_task, unpacked
from hansa_server import cohort
from hansa_server.baselines import Baselines, train_baselines
from hansa_server.clipping import at_bound, moved, moving_bound
from hansa_server.closing import Closing, LastModel, close, close_masked, coordinator_counts
from hansa_server.exchange import Answer, Deadline, Exchange, ask_each, by_basis, problem_of
from hansa_server.explaining import explain_model
from hansa_server.gathering import Gathered, gather_once
from hansa_server.left_out import LeftOut, left_out_counts, name_of
from hansa_server.masked import Job, MaskedRounds
from hansa_server.notices import Noticed, Sight
from hansa_server.observer import Observer
from hansa_server.panel import Panel
from hansa_server.protected import require_budget
from hansa_server.results import Explanation, RoundResult
from hansa_server.round_results import masked_result, round_result
from hansa_server.rounds import Phase, Round, counts_fit, require_quorum
from hansa_server.store import Checkpoint, Progress, RunFolder
from hansa_server.strategies import Contribution, build_strategy, next_parameters
from hansa_server.summing import contribution_of, with_noise
from hansa_server.vectors import HeldUpdates, extended, finite, keep, leading
from hansa_server.versions import Versions


class Study:
    """The state of one study as it runs; what was reached stays readable after a failure."""

    def __init__(
        self,
        *,
        plan: StudyPlan,
        folder: RunFolder,
        engine: str,
        observer: Observer,
        names: Sequence[str] = (),
        signers: Mapping[str, str] | None = None,
        baselines: bool = False,
        attempt: int = 1,
    ) -> None:
        self.plan = plan
        self.digest = plan.digest()
        self.engine = engine
        self.baselines: Baselines | None = None
        self.sites: dict[str, Opened] = {}
        self.unopened: dict[str, str] = {}
        self.left_out: LeftOut | None = None
        self.rounds: list[RoundResult] = []
        self.noticed = Noticed()
        self.closing: Closing | None = None
        self.explanation: Explanation | None = None
        self.parameters: Vector | None = None
        self.spec: ParameterSpec | None = None
        self.started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self.setup_seconds = 0.0
        self.rounds_seconds = 0.0
        self._with_baselines = baselines
        self._attempt = attempt
        self.delivered: dict[str, str] = {}  # site -> why it did not get the model; empty where it did
        self._folder = folder
        self.versions = Versions(folder.path, plan.evaluation.ensemble or 0)
        self._observer = observer
        self._strategy = build_strategy(plan.aggregation, plan.training)
        self._traits = STRATEGIES[plan.aggregation.strategy]
        self._nodes: dict[str, int] = {}
        self._kind = kind_of(plan)
        self._labels = len(label_names(plan.data))
        self._bytes = {"up": 0, "down": 0}  # before a resume
        self._exchange: Exchange | None = None
        self.names = tuple(names)
        self._signers = signers or {}
        self._masked: MaskedRounds | None = None
        self.gathered: Gathered | None = None

    @property
    def model(self) -> Vector | None:
        """The global model, ``float32 [P]``: the first part of what is carried."""
        whole, spec = self.parameters, self.spec
        return whole if whole is None or spec is None else leading(whole, spec.size)

    @property
    def bytes_up(self) -> int:
        """Payload bytes from the sites, earlier runs of a resumed study included."""
        return self._bytes["up"] + (self._exchange.bytes_up if self._exchange else 0)

    @property
    def bytes_down(self) -> int:
        """Payload bytes to the sites, earlier runs of a resumed study included."""
        return self._bytes["down"] + (self._exchange.bytes_down if self._exchange else 0)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            UsageError: It belongs to another plan.
        """
        progress = checkpoint.progress
        if (progress.plan_digest, progress.simulation_digest) != (self.digest, self.plan.simulation_digest()):
            raise UsageError(
                "The checkpoint belongs to another plan than the one in this folder.",
                advice="Do not edit plan.toml; start a new run from the changed study file.",
            )
        self.rounds = list(progress.rounds)
        self.spec = progress.spec
        self.started_at = progress.started_at
        self.setup_seconds, self.rounds_seconds = progress.setup_seconds, progress.rounds_seconds
        self._bytes = {"up": progress.bytes_up, "down": progress.bytes_down}
        self._strategy.restore(dict(checkpoint.strategy))
        self.parameters = checkpoint.parameters

    def run(self, exchange: Exchange) -> None:
        """Conduct the study to its end.

        Raises:
            StudyFailed: It cannot go on; ``rounds`` and ``parameters`` hold what was reached.
            StorageError: The disk of this machine failed.
        """
        self._exchange = exchange
        started = time.monotonic()
        self._open(exchange)
        if self.plan.privacy.secure_aggregation is not None:
            self._masked = self._masked_rounds(exchange)
        panel = self._panel(exchange)
        if self.plan.preprocessing.needs_statistics:
            self._observer.stage("gathering the statistics of the features")
            self.gathered = gather_once(panel, self._masked, self._folder)
        if self.parameters is None:
            self.spec, initial = self._initial(exchange)
            self.parameters = extended(initial, self.plan.carried, self._folder.path)
        assert self.spec is not None
        self.versions.require(self.spec)
        self._strategy.inspect(self.spec)
        self._strategy.introduce(sites=len(self.names) or len(self.sites))
        require_budget(self.plan, self.names, dimension=self.parameters.size)
        self.setup_seconds += time.monotonic() - started
        if self.rounds:
            self.noticed.replay(self._sight())
        self._notice()
        for number in range(len(self.rounds) + 1, self.plan.rounds.count + 1):
            result = self._masked_round(exchange, number) if self._masked else self._round(exchange, number)
            self.rounds.append(result)
            self.rounds_seconds += result.seconds
            self._checkpoint()
            self._observer.round_closed(result)
            self._notice()
        self.closing = self._close(panel)
        folder = "" if exchange.names else str(self._folder.path.resolve())
        self.explanation = explain_model(panel, self._last(), self._masked, folder)
        if self._with_baselines:
            self.baselines = self._baselines(exchange)

    def _panel(self, exchange: Exchange) -> Panel:
        return Panel(
            plan=self.plan,
            digest=self.digest,
            kind=self._kind,
            opened=self.sites,
            nodes=self._nodes,
            ask_nodes=partial(self._ask, exchange),
        )

    def _sight(self) -> Sight:
        return Sight(plan=self.plan, sites=self.sites, spec=self.spec, rounds=self.rounds)

    def _notice(self) -> None:
        """Tell what is new since the last look."""
        for notice in self.noticed.look(self._sight()):
            self._observer.noticed(notice)

    def _open(self, exchange: Exchange) -> None:
        """Have every site check its data; go on with those that can, if they are enough."""
        self._observer.stage("opening the study at the sites")
        nodes, absent = exchange.nodes(), name_of(self.plan)
        kept = self.plan.keeps_state or self.plan.personalisation is not None
        folder = str(self._folder.path.resolve() / "sites") if kept and self.plan.simulation is not None else ""
        message = Message(header=OpenTask(plan=self.plan.model_dump_json(), folder=folder))
        for answer in self._ask(exchange, [(node, message) for node in nodes]):
            header = answer.message.header if answer.message else None
            if not isinstance(header, Opened):
                said = header.site if isinstance(header, Refusal) else f"node {answer.node}"
                name = exchange.names.get(answer.node, said)
                self.unopened[name] = problem_of(answer)
            elif header.plan_digest != self.digest or header.site in self.sites:
                self.unopened[header.site] = "It opened another plan, or took another site's name."
            elif (name := exchange.names.get(answer.node, header.site)) != header.site:
                self.unopened[name] = "It took another site's name."
            elif header.site == absent:
                self.left_out = LeftOut(opened=header, node=answer.node)
            elif not self._declares_enough(header):
                self.unopened[header.site] = "It declared no training examples, or other classes than the plan's."
            else:
                self.sites[header.site], self._nodes[header.site] = header, answer.node
        self._observer.opened(self.sites, self.unopened)
        self._need(len(self.sites), len(nodes) - (absent is not None), self.unopened, "The study could not be opened")
        if absent is not None and self.left_out is None:
            raise StudyFailed(f"{absent}, which is left out, could not open the study: no figure of it would follow.")
        self._strategy.require(self.sites)
        size = self.plan.rounds.sites_per_round
        if size is not None and size > len(self.sites):
            raise StudyFailed(f"A round needs {size} sites; {len(self.sites)} could open the study.")

    def _declares_enough(self, header: Opened) -> bool:
        """Tell whether a site says what it must; protection, or its policy, keeps the rest at home."""
        privacy = self.plan.privacy
        kept = privacy.differential is not None or privacy.secure_aggregation is not None
        if kept and not header.class_counts:
            return header.train >= 1 if privacy.weights == "examples" else header.train == 0
        if header.train < 1 and (privacy.weights == "examples" or not kept):
            return False
        return len(header.class_counts) == self._labels

    def _masked_rounds(self, exchange: Exchange) -> MaskedRounds:
        """Return what conducts this study's masked rounds."""

        def ask(requests: Sequence[tuple[str, Message]], deadline: Deadline) -> Iterator[tuple[str, Answer]]:
            names = {self._nodes[site]: site for site, _message in requests}
            asked = [(self._nodes[site], message) for site, message in requests]
            yield from ((names[answer.node], answer) for answer in self._ask(exchange, asked, deadline=deadline))

        return MaskedRounds(
            plan=self.plan,
            sites=self.names,
            opened=self.sites,
            ask=ask,
            folder=self._folder,
            run=self._attempt,
            said=self._observer.site_done,
            signers=self._signers,
        )

    def _initial(self, exchange: Exchange) -> tuple[ParameterSpec, Vector]:
        """Have the first site initialise the model with the plan's seed: this process has no torch."""
        first = min(self.sites)
        message = Message(header=InitialTask(plan_digest=self.digest))
        for answer in self._ask(exchange, [(self._nodes[first], message)]):
            if answer.message and isinstance(header := answer.message.header, Initial):
                vector = answer.message.vector
                if vector is not None and vector.size == header.spec.size and is_finite(vector):
                    return header.spec, keep(chunks(vector), vector.size, self._folder.path)
            raise StudyFailed(f"{first} could not initialise the model: {problem_of(answer)}")
        raise RuntimeError("An exchange yields an answer for each request.")

    def _basis(self) -> dict[str, int]:
        """Return the last round in which each site's update was counted, where sites build on it."""
        if not self.plan.keeps_state:
            return {}
        return {site.site: result.round for result in self.rounds for site in result.sites}

    def _round(self, exchange: Exchange, number: int) -> RoundResult:
        assert self.parameters is not None
        assert self.spec is not None
        started, up, down = time.monotonic(), exchange.bytes_up, exchange.bytes_down
        plan = at_bound(self.plan, bound := moving_bound(self.plan, self.rounds))
        sites = cohort.choose(self.sites, size=plan.rounds.sites_per_round, seed=plan.seed, round_number=number)
        held = HeldUpdates(self._folder.path)
        current = Round(
            plan_digest=self.digest,
            number=number,
            attempt=self._attempt,
            cohort=sites,
            quorum=plan.rounds.quorum,
            deadline=started + plan.rounds.deadline_seconds,
            parameters=plan.update_size(self.spec.size),
            examples={site: (self.sites[site].train, self.sites[site].validation) for site in sites},
            held=held,
            privacy=plan.privacy,
            tells_loss=self._traits.training_loss,
            steps=plan.training.steps_of_round if self._traits.weighs_steps else None,
            is_delta=not self._traits.second_order,
        )
        self._observer.round_started(number, sites)
        header = self._train_task(number, self._attempt, 0).model_copy(update={"clipping_bound": bound})
        task = by_basis(train_task(self.plan, header, self.parameters), self._basis())
        names = {self._nodes[site]: site for site in sites}
        with contextlib.closing(held):
            for answer in self._ask(exchange, [(node, task(site)) for node, site in names.items()]):
                self._take(current, names[answer.node], answer)
                del answer  # its array must be gone before the next one comes
            if current.tick(current.deadline) is Phase.VOID:
                self._need(len(current.accepted), len(sites), current.missing, f"Round {number} is void")
            self._step(with_noise(plan, current.contributions(), self._folder.path), number)
        closed = round_result(
            current,
            seconds=time.monotonic() - started,
            bytes_up=exchange.bytes_up - up,
            bytes_down=exchange.bytes_down - down,
        )
        moves = moved(plan, bound, current.accepted.values())
        return closed.model_copy(update={"left_out": self._strategy.left_out} | moves)

    def _step(self, updates: Sequence[Contribution], number: int) -> None:
        """Step the global parameters with a round's updates."""
        assert self.parameters is not None
        following = next_parameters(self._strategy, self.parameters, updates)
        self.parameters = keep(finite(following, number), self.parameters.size, self._folder.path)

    def _masked_round(self, exchange: Exchange, number: int) -> RoundResult:
        assert self.parameters is not None
        assert self._masked is not None
        started, up, down = time.monotonic(), exchange.bytes_up, exchange.bytes_down
        self._observer.round_started(number, tuple(sorted(self.sites)))
        total = self._masked.sum(
            Job(
                number=number,
                parameters=self.parameters,
                size=self.parameters.size,
                counts=num_round_sums(self.plan.privacy, self._kind),
                task=partial(self._train_task, number),
                basis=self._basis(),
                is_declared=lambda site, counts: counts_fit(self.plan.privacy, counts, self.sites[site].validation),
            )
        )
        self._need(len(total.survivors), len(self.sites), total.missing, f"Round {number} is void")
        examples = {site: opened.train for site, opened in self.sites.items()}
        self._step([contribution_of(self.plan, self._masked.terms, total, examples, self._folder.path)], number)
        return masked_result(
            self.plan,
            number,
            total,
            seconds=time.monotonic() - started,
            bytes_up=exchange.bytes_up - up,
            bytes_down=exchange.bytes_down - down,
        )

    def _train_task(self, number: int, attempt: int, following: int) -> TrainTask:
        return TrainTask(
            plan_digest=self.digest, round=number, attempt=attempt, next_attempt=following, prepared=self._prepared
        )

    @property
    def _prepared(self) -> Prepared | None:
        """What every site does to its features before the model sees them."""
        return self.gathered.prepared if self.gathered is not None else None

    def _take(self, current: Round, site: str, answer: Answer) -> None:
        """Hand one answer to the round; what is wrong with it concerns this site only."""
        problem = ""
        if answer.message is None or isinstance(answer.message.header, Refusal):
            problem = problem_of(answer)
            current.fail(site, problem)
        else:
            try:
                current.receive(site, unpacked(self.plan, answer.message, size=current.size))
            except UpdateRefused as error:
                problem = str(error)
            except MessageError as error:
                problem = error.message
                current.fail(site, problem)
        self._observer.site_done(site, problem)

    def _last(self) -> LastModel:
        assert self.model is not None
        return LastModel(parameters=self.model, prepared=self._prepared, basis=self._basis())

    def _together(self) -> Vector:
        """Return the versions that answer together, the newest first; the last model where the plan has no ensemble."""
        assert self.spec is not None
        assert self.model is not None
        return self.versions.load(len(self.rounds), self.spec, self.model)

    def _close(self, panel: Panel) -> Closing:
        self._observer.stage("evaluating the last model")
        started = time.monotonic()
        last, together = self._last(), self._together() if self.plan.tested > 1 else None
        masked = self._masked if counts_leave(self.plan.privacy) else None
        closing = close_masked(panel, masked, last, together) if masked else close(panel, last, together)
        coordinator, left_out = coordinator_counts(panel, last), left_out_counts(panel, self.left_out, last)
        return replace(closing, coordinator=coordinator, left_out=left_out, seconds=time.monotonic() - started)

    def deliver(self, exchange: Exchange, *, card: str, sha256: str) -> None:
        """Hand the last model to every site that takes part; who does not get it is in ``delivered``."""
        assert self.spec is not None
        self._observer.stage("delivering the model to the sites")
        header = DeliverTask(plan_digest=self.digest, spec=self.spec, card=card, sha256=sha256, prepared=self._prepared)
        for site, answer in self._panel(exchange).ask(Message(header=header, vector=self._together())):
            got_it = answer.message is not None and isinstance(answer.message.header, Delivered)
            self.delivered[site] = "" if got_it else problem_of(answer)
            self._observer.site_done(site, self.delivered[site])

    def _baselines(self, exchange: Exchange) -> Baselines:
        self._observer.stage("training the baselines: each site alone, and all data pooled")
        _spec, initial = self._initial(exchange)
        trainings = len(self._nodes) + 1
        return train_baselines(
            lambda requests: self._ask(exchange, requests, rounds=self.plan.rounds.count * trainings),
            plan_digest=self.digest,
            nodes=self._nodes,
            initial=initial,
            prepared=self._prepared,
        )

    def _ask(
        self,
        exchange: Exchange,
        requests: Sequence[tuple[int, Message]],
        *,
        rounds: int = 1,
        deadline: Deadline | None = None,
    ) -> Iterator[Answer]:
        """Yield one answer for each request; by default within a round's time."""
        deadline = deadline or Deadline(self.plan.rounds.deadline_seconds * rounds)
        return ask_each(exchange, requests, deadline=deadline, kind=self._kind)

    def _need(self, found: int, asked: int, failed: Mapping[str, str], what: str) -> None:
        """Stop below the quorum, and say who is missing and why."""
        require_quorum(self.plan.rounds.quorum, found, asked, failed, what)

    def _checkpoint(self) -> None:
        reach("study.checkpoint.before")
        assert self.parameters is not None
        assert self.spec is not None
        progress = Progress(
            plan_digest=self.digest,
            simulation_digest=self.plan.simulation_digest(),
            engine=self.engine,
            spec=self.spec,
            rounds=tuple(self.rounds),
            started_at=self.started_at,
            setup_seconds=self.setup_seconds,
            rounds_seconds=self.rounds_seconds,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
        )
        self.versions.add(len(self.rounds), self.spec, leading(self.parameters, self.spec.size))
        self._folder.save_checkpoint(
            Checkpoint(progress=progress, parameters=self.parameters, strategy=self._strategy.state())
        )
        self.versions.tidy(len(self.rounds))
        reach("study.checkpoint.after")
