import io

from rich.console import Console

from hansa_common.messages import Opened
from hansa_server.figures import no_summary
from hansa_server.notice import Notice
from hansa_server.progress import Display, Plain, Quiet
from hansa_server.results import RoundResult, SiteRound, Summary


def result(number: int = 1) -> RoundResult:
    site = SiteRound(
        site="[bold]a", num_examples=3, train_loss=0.5, accuracy=0.25, loss=1.0, seconds=1.0, train_seconds=0.5
    )
    incoming = Summary(
        weighted_mean_accuracy=0.25,
        site_mean_accuracy=0.25,
        worst_site_accuracy=0.2,
        worst_site="[bold]a",
        weighted_mean_loss=1.0,
    )
    return RoundResult(
        round=number,
        seconds=1.0,
        incoming=incoming,
        train_loss=0.5,
        sites=(site,),
        missing={"b": "it died"},
        bytes_up=1,
        bytes_down=1,
    )


def opened() -> Opened:
    return Opened(
        plan_digest="ab" * 32,
        site="[bold]a",
        train=1000,
        validation=1,
        test=1,
        class_counts=(1,),
        origin="x",
        version="0",
        device="cpu",
    )


def play(observer: Quiet) -> None:
    observer.stage("opening the study at the sites")
    observer.opened({"[bold]a": opened()}, {"c": "column [/] 'age'"})
    observer.round_started(1, ("[bold]a", "b"))
    observer.site_done("[bold]a", "")
    observer.site_done("b", "it died")
    observer.round_closed(result())
    observer.noticed(Notice(kind="stalled", round=1, figure=0.5, text="[bold]a stalls.", advice="Take [/] another."))
    observer.stage("evaluating the last model")
    observer.close()
    observer.close()


def shown(kind: type[Plain] | type[Display], *, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, legacy_windows=False)
    play(kind(console, rounds=4))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_plain_lines_say_what_happens() -> None:
    text = shown(Plain, terminal=False)
    assert "\x1b" not in text
    assert "1 site opened the study, 1,000 training examples" in text
    assert "c could not open the study: column [/] 'age'" in text
    assert "b is missing from this round: it died" in text
    assert "round 1/4  1 sites  train loss 0.5000  validation of model 0: accuracy 25.0%  worst [bold]a 20.0%" in text
    assert "s left" in text
    assert "notice: [bold]a stalls. Take [/] another." in text


def test_the_display_shows_names_as_they_are_and_its_last_line_once() -> None:
    text = shown(Display, terminal=True)
    assert "[bold]a" in text
    assert "it died" in text
    assert "[bold]a stalls." in text
    assert "Take [/] another." in text
    assert text.count("round 1 of 4: train loss 0.5000") == 1


def test_quiet_takes_everything() -> None:
    play(Quiet())


def test_what_stays_at_the_sites_is_left_out() -> None:
    masked = result().model_copy(update={"void_attempts": ("b fell silent",)})
    single = {"site_mean_accuracy": None, "worst_site_accuracy": None, "worst_site": None}
    masked = masked.model_copy(update={"incoming": masked.incoming.model_copy(update=single)})
    nothing = masked.model_copy(
        update={
            "train_loss": None,
            "incoming": no_summary(),
            "sites": (masked.sites[0].model_copy(update={"train_loss": None, "accuracy": None}),),
            "void_attempts": (),
        }
    )
    kept = opened().model_copy(update={"train": 0, "class_counts": ()})
    for kind, terminal in ((Plain, False), (Display, True)):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=120, legacy_windows=False)
        observer = kind(console, rounds=4)
        observer.opened({"[bold]a": kept, "b": opened()}, {})
        for closed in (masked, nothing):
            observer.round_started(1, ("[bold]a", "b"))
            observer.round_closed(closed)
            if isinstance(observer, Display):
                console.print(observer)
        observer.close()
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        assert "None" not in text
        assert "training examples" not in text
        assert "accuracy 25.0%" in text
        assert "worst" not in text
        assert "repeated once" in text
        assert "no figures leave the sites" in text
