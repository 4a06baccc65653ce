import tomllib
from pathlib import Path

import pytest

from hansa_client.settings import LimitSettings, SiteSettings, WorkerSettings, read_settings, write_settings
from hansa_common.errors import SettingsError


def test_the_written_file_reads_back_to_the_defaults(tmp_path: Path) -> None:
    write_settings(tmp_path / "site.toml")
    assert read_settings(tmp_path / "site.toml") == SiteSettings()
    assert (tmp_path / "site.toml").stat().st_mode & 0o777 == 0o600


def test_every_setting_is_in_the_file_and_explained(tmp_path: Path) -> None:
    write_settings(tmp_path / "site.toml")
    text = (tmp_path / "site.toml").read_text()
    values = tomllib.loads(text)
    assert set(values["limits"]) == set(LimitSettings.model_fields)
    assert set(values["worker"]) == set(WorkerSettings.model_fields)
    assert all(name in text for name in SiteSettings.model_fields)
    for model in (LimitSettings, WorkerSettings):
        assert all(f"# {field.description}" in text for field in model.model_fields.values())


def test_the_examples_in_the_comments_are_valid(tmp_path: Path) -> None:
    write_settings(tmp_path / "site.toml")
    lines = (tmp_path / "site.toml").read_text().splitlines()
    starts = ("# proxy =", "# [", "# adapter", "# path", "# weights", "# quick", "# studies", "# person =")
    examples = [line[2:] for line in lines if line.startswith(starts)]
    (tmp_path / "examples.toml").write_text("\n".join(examples))
    settings = read_settings(tmp_path / "examples.toml")
    assert settings.proxy == "proxy.example.org:3128"
    assert settings.source("anything") is not None
    assert settings.apps
    found = settings.population("anything")
    assert found is not None
    assert found[0] == "patients"


def test_data_paths_count_from_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(
        '[data.thorax]\nadapter = "csv"\npath = "rows.csv"\nweights = "w"\n'
        '[data.default]\nadapter = "npz"\npath = "/x.npz"\n'
    )
    settings = read_settings(tmp_path / "site.toml")
    named, other = settings.source("thorax"), settings.source("skin")
    assert named is not None
    assert named.path == str(tmp_path / "rows.csv")
    assert named.weights == str(tmp_path / "w")
    assert other is not None
    assert other.path == "/x.npz"


def test_no_section_for_a_study_is_no_data() -> None:
    assert SiteSettings().source("thorax") is None


@pytest.mark.parametrize(
    "text",
    [
        "prxy = 'a:1'",
        "proxy = 'http://a:1'",
        "proxy = 'user:secret@a:1'",
        "[limits]\nmemory = 1",
        "[limits]\nmemory_mb = 0",
        "[worker]\nnetwork = 'some'",
        "[apps]\nx = 'os; import:sys'",
        "[data.default]\npath = 'x'",
    ],
)
def test_a_wrong_setting_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(SettingsError):
        read_settings(tmp_path / "site.toml")
