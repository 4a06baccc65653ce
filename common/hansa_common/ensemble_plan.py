"""``evaluation.ensemble``: how many versions of the model answer together, and which plans have such versions."""

from typing import Final

MOST_MEMBERS: Final = 100  # each is a model on the coordinator's disk and in the closing exchange
VERSIONS: Final = "versions"
"""Folder of a run, or beside a delivered model, with the versions that answer together: one file each."""


def check_ensemble(members: int | None, *, rounds: int, split_by: str | None) -> None:
    """Refuse an ensemble that cannot be.

    Args:
        members: How many versions; ``None`` where the plan asks for no ensemble.
        rounds: How many there are.
        split_by: The method of ``[personalisation]``, where by it layers stay at the sites.

    Raises:
        ValueError: There are fewer versions than members, or none of them is whole.
    """
    if members is None:
        return
    if members > rounds:
        raise ValueError(
            f"evaluation.ensemble: found {members}; allowed is at most rounds.count, which is {rounds}: each round "
            "gives one version."
        )
    if split_by is not None:
        raise ValueError(
            f"evaluation.ensemble: with personalisation.method = '{split_by}' layers stay at the sites, so no version "
            "is common to all sites and whole; leave this key out. The sites' own models can answer together where one "
            "machine may have them: 'hansa study ensemble'."
        )
