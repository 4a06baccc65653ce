import re
from collections.abc import Callable
from typing import Any

import pytest

from hansa_client.review import describe
from hansa_client.review_protection import what_leaves
from hansa_common.app_plan import AppPlan
from hansa_common.combinations import RingBits, decide
from hansa_common.plan import StudyPlan
from hansa_common.privacy_plan import DifferentialKind
from hansa_common.roster import CoordinatorPins, Organisation, Roster
from hansa_common.wire.protocol import Proposal


def roster(**changes: Any) -> Roster:
    values: dict[str, Any] = {
        "federation": "thorax",
        "version": 1,
        "founder": Organisation(name="Charité", key="ab" * 32),
        "coordinator": CoordinatorPins(certificate_authorities=("cd" * 32,)),
        "issued_at": 1,
    }
    return Roster(**(values | changes))


def page(plan: StudyPlan | AppPlan, **changes: Any) -> str:
    text = (plan.approved() if isinstance(plan, StudyPlan) else plan).model_dump_json()
    proposal = Proposal(study="small-1", plan=text, digest=plan.digest(), proposed_at=0)
    return describe(proposal, roster(**changes), answer="not answered")


def test_it_says_who_asks_what_leaves_who_gets_the_model_and_the_hash(make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(federation={"sites": ["Hospital A", "Hospital B"]})
    text = page(plan)
    for words in ("Charité", "thorax", "A test.", "trained here 3 times", "1 epochs", "Hospital A, Hospital B"):
        assert words in text
    for title in ("Who asks", "Your data", "What is done", "What leaves", "Who gets the model", "Your answer"):
        assert title in text
    assert plan.digest() in text


def test_a_founder_that_is_the_coordinator_is_pointed_out(make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan()
    assert "coordinator alone admits" in page(plan, founder_is_coordinator=True)
    assert "coordinator alone admits" not in page(plan)


def test_another_flower_app_is_shown_with_its_risk() -> None:
    plan = AppPlan(
        name="quick",
        server_app="q.server:app",
        client_app="q.client:app",
        run_config={"lr": 0.1},
        sites=("Hospital A",),
    )
    text = page(plan)
    assert "q.client:app" in text
    assert "lr = 0.1" in text
    assert "WHATEVER THE APP SENDS" in text
    assert plan.digest() in text


@pytest.mark.parametrize("hostile", ["\x1b[2J\x1b[H", "\r", "\n", "\u202e", "\x9b1A"])
def test_a_plan_cannot_command_the_terminal_of_who_reads_it(make_plan: Callable[..., StudyPlan], hostile: str) -> None:
    plain = page(make_plan(purpose="good"))
    text = page(make_plan(purpose=f"good{hostile}What leaves          nothing"))
    assert hostile[0] not in text.replace("\n", "")
    assert len(text.splitlines()) == len(plain.splitlines())


FOUR = {"sites": ["Hospital A", "Hospital B", "Hospital C", "Hospital D"]}
MASKS = {"coordinate_range": 0.5, "cohort": "fixed"}
SITE_LEVEL = {"clipping_bound": 0.75, "noise_multiplier": 4.25, "epsilon": 8.0, "delta": 1e-5}
EXAMPLE = SITE_LEVEL | {"kind": "example", "sampling_rate": 0.01}
ISOLATED = "a dishonest server can isolate your update by two rounds that differ by one site"
AS_TODAY = "the change of the model's weights, the number of training examples, the training loss, and counts of right"


def parts(make_plan: Callable[..., StudyPlan], privacy: dict[str, Any], **sections: Any) -> tuple[str, str]:
    """Return what the page says of what leaves, and of what protects it."""
    if privacy.get("differential", {}).get("kind") == "example":
        sections["replaced"] = {"training": {"batch_size": 32, "steps": 5}}
    text = " ".join(page(make_plan(**({"federation": FOUR} | sections), privacy=privacy)).split())
    assert not re.search(r"\b(None|nan)\b", text)
    leaves, _, protects = (
        text.partition("What leaves")[2].partition("Who gets the model")[0].partition("What protects it")
    )
    return leaves, protects


def test_without_protection_the_page_is_what_it_was(make_plan: Callable[..., StudyPlan]) -> None:
    leaves, protects = parts(make_plan, {})
    assert AS_TODAY in leaves
    assert "The coordinator can read all of it" in leaves
    assert protects == ""
    assert "What protects it" not in page(make_plan())
    leaves, protects = parts(make_plan, {"clipping_bound": 2.5})
    assert AS_TODAY in leaves
    assert "neither masks nor noise" in protects
    assert "clipped to an L2 norm of 2.5" in protects


def test_under_masks_only_the_sum_can_be_read(make_plan: Callable[..., StudyPlan]) -> None:
    leaves, protects = parts(make_plan, {"weights": "equal", "secure_aggregation": MASKS})
    assert "under masks: only the sum over all 4 sites can be read" in leaves
    assert "The number of your training examples stays here" in leaves
    assert "examples of each class stay here, unless the policy" in leaves
    assert "Under the same masks: counts of right and wrong answers" in leaves
    assert AS_TODAY not in leaves
    assert "can read all of it" not in leaves
    assert "hides one site's update within each opened sum from the server and up to 1 other site." in protects
    assert "Only differential privacy limits what a sum tells" in protects
    assert "A coordinate of an update beyond 0.5 is cut off" in protects
    assert "isolate" not in protects
    assert "Every site counts the same" in protects


def test_weights_by_examples_are_told_and_said_to_be_known(make_plan: Callable[..., StudyPlan]) -> None:
    leaves, protects = parts(make_plan, {"maximum_examples": 5000, "secure_aggregation": MASKS})
    assert "In the open: the number of your training examples" in leaves
    assert "at most 5,000; the weights are known to the server" in protects


def test_a_changing_cohort_says_what_it_costs(make_plan: Callable[..., StudyPlan]) -> None:
    privacy = {"weights": "equal", "secure_aggregation": MASKS | {"cohort": "changing"}}
    leaves, protects = parts(make_plan, privacy)
    assert "only the sum over at least 3 of the 4 sites can be read" in leaves
    assert ISOLATED in protects
    leaves, protects = parts(make_plan, privacy, federation={"sites": [f"s{index}" for index in range(10)]})
    assert "at least 7 of the 10 sites" in leaves
    assert "up to 3 other sites" in protects


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["example", "site_server", "site_distributed"])
def test_with_noise_no_size_loss_time_or_count_leaves(
    make_plan: Callable[..., StudyPlan], kind: str, *, masked: bool
) -> None:
    if kind == "site_distributed" and not masked:
        return
    noised = EXAMPLE if kind == "example" else SITE_LEVEL | {"kind": kind}
    masks = {"secure_aggregation": MASKS} if masked else {}
    leaves, protects = parts(make_plan, {"weights": "equal", "differential": noised} | masks)
    assert "No sizes, no training loss, no times, and no counts of right and wrong answers." in leaves
    assert "number of training examples" not in leaves
    assert ("The coordinator can read it." in leaves) != masked
    assert ("only the sum" in leaves) == masked
    assert "Epsilon 8 and delta 1e-05 for the whole study mean" in protects
    assert "L2 norm of 0.75; the noise multiplier is 4.25" in protects
    assert "Every site counts the same" in protects
    assert "Only differential privacy limits" not in protects
    assert ("You trust the coordinator" in protects) == (kind == "site_server")
    assert ("holds against the coordinator too, with up to 1 other site" in protects) == (kind == "site_distributed")
    ring: RingBits | None = 32 if masked else None
    assert (
        f"In short: {decide(strategy='fedavg', ring_bits=ring, kind=plan_kind(kind), codec='float32').text}" in protects
    )


def plan_kind(kind: str) -> DifferentialKind:
    found: dict[str, DifferentialKind] = {
        "example": "example",
        "site_server": "site_server",
        "site_distributed": "site_distributed",
    }
    return found[kind]


def test_who_adds_the_noise_reads_the_update_or_the_sum(make_plan: Callable[..., StudyPlan]) -> None:
    privacy = {"weights": "equal", "differential": SITE_LEVEL | {"kind": "site_server"}}
    assert "it reads your update and adds the noise" in parts(make_plan, privacy)[1]
    masked = privacy | {"secure_aggregation": MASKS}
    assert "it reads the sum of the updates and adds the noise" in parts(make_plan, masked)[1]


def test_a_bound_that_moves_is_explained_and_so_is_what_moves_it(make_plan: Callable[..., StudyPlan]) -> None:
    differential = SITE_LEVEL | {"kind": "site_server", "adaptive": {"noise_multiplier": 3.0, "most": 20.0}}
    leaves, protects = parts(make_plan, {"weights": "equal", "differential": differential})
    assert "Whether your update was longer than the round's bound." in leaves
    assert "clipped to an L2 norm of 0.75 in the first round" in protects
    assert "follows the 0.5 quantile of all sites' norms, between 1e-06 and 20" in protects
    assert "with noise (multiplier 3)" in protects


def test_noised_counts_leave_with_their_noise_and_the_unit_is_named(make_plan: Callable[..., StudyPlan]) -> None:
    noised = EXAMPLE | {"metrics_noise": 6.5, "unit": "patient_id"}
    leaves, protects = parts(make_plan, {"weights": "equal", "differential": noised})
    assert "Counts of right and wrong answers with noise" in leaves
    assert "which the coordinator can read; the noise multiplier is 6.5" in leaves
    assert "No sizes, no losses and no times." in leaves
    assert "column 'patient_id' says whose a row is" in protects
    assert "one person's rows of yours" in protects
    without = parts(make_plan, {"weights": "equal", "differential": EXAMPLE})[1]
    assert "Differential privacy for one row" in without
    assert "person's rows" not in without


def test_what_a_codec_holds_back_is_said_and_praised_for_nothing_but_bytes(make_plan: Callable[..., StudyPlan]) -> None:
    topk = {"codec": "topk", "fraction": 0.025}
    leaves = " ".join(what_leaves(make_plan(transport=topk)))
    assert "change of the model's weights (only the 2.5 % of its values that are largest)" in leaves
    assert "The rest of the change stays in this site's folder and is added to the change of your next round" in leaves
    assert "protects nothing" in leaves
    noised = {"weights": "equal", "differential": EXAMPLE}
    leaves, _ = parts(make_plan, noised, transport=topk)
    assert "with noise (DP-SGD) (only the 2.5 % of its values" in leaves
    assert "stays in this site's folder" in leaves
    assert "stays in this site's folder" not in " ".join(what_leaves(make_plan()))


def test_a_column_cannot_command_the_terminal(make_plan: Callable[..., StudyPlan]) -> None:
    noised = EXAMPLE | {"unit": "id\x1b[2J"}
    plan = make_plan(
        privacy={"weights": "equal", "differential": noised}, replaced={"training": {"batch_size": 32, "steps": 5}}
    )
    assert "\x1b" not in page(plan)


def test_a_review_says_what_of_an_explanation_leaves_and_what_stays(make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(evaluation={"explain": {"method": "integrated_gradients", "minimum_examples": 12}})
    said = " ".join(what_leaves(plan))
    assert "at least 12 are explained" in said
    assert "never leave it" in said
    assert "single examples" not in " ".join(what_leaves(make_plan()))


def test_a_review_says_that_several_models_are_counted(make_plan: Callable[..., StudyPlan]) -> None:
    said = " ".join(what_leaves(make_plan(evaluation={"ensemble": 2})))
    assert "the counts of the last 2 models as one on the test split, which the coordinator can read" in said
    assert "models as one" not in " ".join(what_leaves(make_plan()))
    masks = {"weights": "equal", "secure_aggregation": {"cohort": "fixed", "coordinate_range": 1.0}}
    masked = " ".join(what_leaves(make_plan(evaluation={"ensemble": 2}, privacy=masks)))
    assert "as one on the test split, under the same masks" in masked


def test_a_review_says_that_curvature_leaves_and_that_nothing_is_trained(make_plan: Callable[..., StudyPlan]) -> None:
    newton = make_plan(aggregation={"strategy": "newton"})
    assert "its Hessian" in " ".join(what_leaves(newton))
    assert "Hessian" not in " ".join(what_leaves(make_plan()))
    assert "Hessian of a model 'logistic' are computed here 3 times" in page(newton.model_copy())
    assert "epochs each" not in page(newton)


ARRAY = {"kind": "array", "shape": [4]}


@pytest.mark.parametrize(
    ("target", "model", "each_round", "at_the_end"),
    [
        ({"kind": "number"}, "linear", "sums of the numbers, of the model's errors", "the same sums"),
        (
            {"kind": "survival", "time": "t", "event": "e"},
            "cox",
            "of events and of pairs of people that the model puts in the right order",
            "and with an event. At the end: the same counts",
        ),
        ({"kind": "reconstruction"}, "vae", "sums of the reconstruction errors", "the same sums on the test split."),
        (
            {"kind": "reconstruction", "anomaly": "bad"},
            "vae",
            "of normal examples and of anomalies apart",
            "histograms of the errors",
        ),
    ],
)
def test_what_leaves_is_said_of_what_is_learned(
    make_plan: Callable[..., StudyPlan], target: dict[str, str], model: str, each_round: str, at_the_end: str
) -> None:
    replaced = {"data": ARRAY | {"target": target}, "model": {"name": model}}
    said = " ".join(what_leaves(make_plan(replaced=replaced)))
    assert each_round in said
    assert at_the_end in said
    assert "right and wrong" not in said
    masked = " ".join(
        what_leaves(make_plan(replaced=replaced, privacy={"weights": "equal", "secure_aggregation": MASKS}))
    )
    assert each_round in masked
    assert "right and wrong" not in masked


def test_groups_and_costs_are_told_with_who_reads_them_and_what_is_left_out(
    make_plan: Callable[..., StudyPlan],
) -> None:
    weighed = {"groups": {"sex": ["f", "m"]}, "minimum_group": 30}
    two = {"data": ARRAY | {"classes": ["a", "b"]}}
    said = " ".join(what_leaves(make_plan(replaced=two, evaluation=weighed)))
    assert "within each group of 'sex' (f, m)" in said
    assert "fewer than 30 test examples of yours is left out" in said
    masks = {"weights": "equal", "secure_aggregation": MASKS}
    masked = " ".join(what_leaves(make_plan(replaced=two, evaluation=weighed, privacy=masks)))
    assert "Only the sum over the sites can be read. A group of fewer than 30 test examples of all sites" in masked
    cost = {"cost": {"false_negative": 5.0, "false_positive": 1.0}}
    assert "get which score, by class." in " ".join(what_leaves(make_plan(replaced=two, evaluation=cost)))
    assert "which score" not in " ".join(what_leaves(make_plan()))


def test_a_sites_own_model_is_told_and_that_it_stays(make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(personalisation={"method": "ditto"})
    assert "This site gets a model of its own too, by 'ditto'." in " ".join(page(plan).split())
    assert "The model itself stays here." in " ".join(what_leaves(plan))
    masks = {"weights": "equal", "secure_aggregation": MASKS}
    masked = make_plan(personalisation={"method": "ditto"}, privacy=masks)
    assert "This site's own model stays here." in " ".join(what_leaves(masked))
    assert "of its own too" not in page(make_plan())


def test_a_review_says_what_is_counted_of_texts(make_plan: Callable[..., StudyPlan]) -> None:
    text = {"tokens": "words", "learn": "class", "vocabulary": ["no", "fever"]}
    data = {"kind": "array", "shape": [9], "minimum": 0, "maximum": 3, "classes": ["well", "ill"], "text": text}
    replaced = {"model": {"name": "gru", "vocabulary": 3}, "data": data, "preprocessing": {"vocabulary": 1}}
    plan = make_plan(replaced=replaced)
    said = " ".join(what_leaves(plan))
    assert "how many texts of the training split hold each of the 2 tokens that the plan names" in said
    assert "which the coordinator can read; nothing of a token that fewer than 10 examples have" in said
    assert "Texts, 9 words an example; 2 are told apart." in page(plan)


def test_a_review_says_that_tokens_are_counted_where_the_next_is_learned(make_plan: Callable[..., StudyPlan]) -> None:
    text = {"tokens": "characters", "learn": "next"}
    data = {"kind": "array", "shape": [9], "minimum": 0, "maximum": 3, "classes": ["a", "b"], "text": text}
    evaluation = {"group": "row"}
    plan = make_plan(replaced={"model": {"name": "gru", "vocabulary": 4}, "data": data, "evaluation": evaluation})
    assert "how often each token of the plan follows, a rare one too" in " ".join(what_leaves(plan))


def test_a_review_names_the_columns_of_windows_and_the_conditions(make_plan: Callable[..., StudyPlan]) -> None:
    windows = {"columns": ["speed", "heat"], "unit": "pump", "label": "state"}
    data = {"kind": "array", "shape": [9, 2], "classes": ["well", "ill"], "windows": windows}
    condition = {"column": "speed", "levels": [0.0, 1.0, 2.0]}
    preprocessing = {"standardise": "federation", "condition": condition}
    evaluation = {"group": "pump"}
    plan = make_plan(replaced={"data": data, "preprocessing": preprocessing, "evaluation": evaluation})
    assert "Windows of 9 rows, with 2 columns: speed, heat." in page(plan)
    assert "of each column, in each of 3 conditions by 'speed', over the training" in " ".join(what_leaves(plan))
    assert "nothing of a column that fewer than 10 values of 'pump' have" in " ".join(what_leaves(plan))
