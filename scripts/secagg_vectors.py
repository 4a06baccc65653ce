#!/usr/bin/env python3
"""Write the test vectors of secure aggregation, or compare those that are there (``--check``).

Every secret is derived from a label, every signature is deterministic (RFC 8032), so the same bytes come out on every
machine. A file whose name begins with ``refuse_`` must be refused, with the error code that it holds; the name says
why. They are for whoever implements the protocol again, and hold the code to what it was when they were written: a
change of one byte on the wire shows here.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hansa_common.secagg import (
    Announcement,
    FixedPoint,
    ServerSession,
    Setup,
    SiteMemory,
    SiteSession,
    Survivors,
    Terms,
    Turn,
)
from hansa_common.secagg.agreement import Shares, commit_seed, commit_share, pair_keys, seal, self_keys, signed
from hansa_common.secagg.fixedpoint import Rounding
from hansa_common.secagg.masking import KeyStream, apply, room
from hansa_common.secagg.messages import BOX_BYTES
from hansa_common.secagg.sharing import split
from hansa_common.signing import public_hex

FOLDER = Path(__file__).parents[1] / "tests" / "vectors" / "secagg"
Vector = dict[str, Any]


def derive(label: str) -> bytes:
    """Return 32 bytes that belong to a label."""
    return hashlib.sha256(f"hansa test vector: {label}".encode()).digest()


def stream(label: str) -> Callable[[int], bytes]:
    """Return a source of bytes that belong to a label, in place of ``os.urandom``."""
    position = 0

    def rand(count: int) -> bytes:
        nonlocal position
        blocks = b"".join(derive(f"{label}: {position + number}") for number in range(-(-count // 32)))
        position += -(-count // 32)
        return blocks[:count]

    return rand


class Study:
    """Sites, a server and one round, all from labels."""

    def __init__(self, *, n: int, cohort: Any = "changing", bits: Any = 32) -> None:
        names = tuple(f"site-{number}" for number in range(n))
        self.terms = Terms(plan_digest=derive("plan").hex(), sites=names, cohort=cohort, ring_bits=bits)
        self.signing = {name: Ed25519PrivateKey.from_private_bytes(derive(f"{name} signing")) for name in names}
        self.study = {name: X25519PrivateKey.from_private_bytes(derive(f"{name} study")) for name in names}
        self.directory = {name: public_hex(key) for name, key in self.signing.items()}
        self.sites = {name: self.start(name) for name in names}
        self.keys = [site.study_key_statement() for site in self.sites.values()]
        self.model = derive("model")

    def start(self, name: str) -> SiteSession:
        """Return a site whose randomness is its label's."""
        return SiteSession(
            terms=self.terms,
            site=name,
            signing=self.signing[name],
            study_key=self.study[name],
            directory=self.directory,
            memory=SiteMemory(),
            save=lambda _: None,
            rand=stream(f"{name} rand"),
        )

    def describe(self) -> Vector:
        """Return what a reader needs to build the same sites."""
        terms = self.terms
        return {
            "terms": {
                "plan_digest": terms.plan_digest,
                "sites": list(terms.sites),
                "cohort": terms.cohort,
                "ring_bits": terms.ring_bits,
            },
            "directory": self.directory,
            "secrets": {
                name: {
                    "signing": self.signing[name].private_bytes_raw().hex(),
                    "study": self.study[name].private_bytes_raw().hex(),
                    "rand": f"{name} rand",
                }
                for name in terms.sites
            },
            "study_keys": [key.to_bytes().hex() for key in self.keys],
            "model": self.model.hex(),
        }

    def setups(self) -> list[Setup]:
        """Return all setups of round 1."""
        return [site.setup(1, 1, self.keys) for site in self.sites.values()]

    def announcement(self, setups: Sequence[Setup]) -> Announcement:
        """Return the announcement of these setups, whatever they are."""
        return Announcement(terms=self.terms, turn=setups[0].turn, setups=tuple(setups))

    def words(self, name: str) -> tuple[Any, Any]:
        """Return the vector and counts that a site masks."""
        rand = stream(f"{name} update")
        vector = np.frombuffer(rand(5 * self.terms.dtype.itemsize), dtype=self.terms.dtype).copy()
        return vector, np.frombuffer(rand(16), dtype="<u8").copy()


def whole_round(study: Study, left: Sequence[str]) -> Vector:
    """Return everything that is said in one round, and its sum."""
    server = ServerSession(terms=study.terms, round_number=1, attempt=1, size=5, counts=2, keys=study.keys)
    for setup in study.setups():
        server.add_setup(setup)
    announcement = server.announce(study.model)
    inputs, outputs = {}, {}
    for name in left:
        vector, counts = study.words(name)
        inputs[name] = {"vector": vector.tolist(), "counts": counts.tolist()}
        masked = study.sites[name].mask(announcement, study.model, vector, counts)
        server.add_masked(masked, vector, counts)
        outputs[name] = {"header": masked.to_bytes().hex(), "vector": vector.tolist(), "counts": counts.tolist()}
    survivors = server.survivors()
    confirmations = [study.sites[name].confirm(survivors, head=derive(f"{name} log")) for name in left]
    for confirmation in confirmations:
        server.add_confirmation(confirmation)
    answers = [study.sites[name].unmask(confirmations) for name in left]
    for answer in answers:
        server.add_answer(answer)
    total = server.sum()
    return study.describe() | {
        "round": 1,
        "attempt": 1,
        "announcement": announcement.to_bytes().hex(),
        "announcement_digest": announcement.digest().hex(),
        "inputs": inputs,
        "masked": outputs,
        "survivors": survivors.to_bytes().hex(),
        "log_heads": {name: derive(f"{name} log").hex() for name in left},
        "confirmations": [one.to_bytes().hex() for one in confirmations],
        "answers": [one.to_bytes().hex() for one in answers],
        "sum": {"vector": total[0].tolist(), "counts": total[1].tolist()},
    }


def building_blocks() -> Iterator[tuple[str, Vector]]:
    """Known answers of the parts."""
    turn = Turn(plan_digest=derive("plan").hex(), round=7, attempt=2)
    at = {"plan_digest": turn.plan_digest, "round": turn.round, "attempt": turn.attempt}

    key, buffer = derive("stream key"), room()
    KeyStream(key).fill(buffer, 100)
    masked = {}
    for dtype in ("<u2", "<u4", "<u8"):
        words = np.arange(8, dtype=dtype)
        apply(words, add=[key], subtract=[derive("another stream key")])
        masked[dtype] = words.tolist()
    subtract = derive("another stream key").hex()
    yield "prg", {"key": key.hex(), "stream": buffer[:100].tobytes().hex(), "subtract": subtract, "0_to_7": masked}

    secret, bound = derive("agreed"), {"announcement": derive("announcement"), "model": derive("model")}
    pair, own = (
        pair_keys(turn, "site-1", "site-0", secret=secret, **bound),
        self_keys(turn, "site-0", seed=secret, **bound),
    )
    names = ("site-0", "site-1")
    yield (
        "hkdf",
        at
        | {
            "secret": secret.hex(),
            "announcement": bound["announcement"].hex(),
            "model": bound["model"].hex(),
            "pair_info": turn.context("pair", *names, *bound.values()).hex(),
            "pair": {"vector": pair.vector.hex(), "counts": pair.counts.hex()},
            "self_info": turn.context("self", "site-0", *bound.values()).hex(),
            "self": {"vector": own.vector.hex(), "counts": own.counts.hex()},
        },
    )

    holder = X25519PrivateKey.from_private_bytes(derive("holder"))
    shares = Shares(seed=b"\0" + derive("share of seed"), key=b"\0" + derive("share of key"))
    public = holder.public_key().public_bytes_raw()
    box = seal(turn, dealer="site-0", holder="site-1", holder_key=public, shares=shares, rand=stream("throw-away"))
    yield (
        "box",
        at
        | {
            "dealer": "site-0",
            "holder": "site-1",
            "holder_key": holder.private_bytes_raw().hex(),
            "rand": "throw-away",
            "share_of_seed": shares.seed.hex(),
            "share_of_key": shares.key.hex(),
            "box": box.hex(),
            "commitment_of_seed_share": commit_share(turn, "seed", "site-0", "site-1", shares.seed).hex(),
            "commitment_of_key_share": commit_share(turn, "key", "site-0", "site-1", shares.key).hex(),
            "commitment_of_seed": commit_seed(turn, "site-0", derive("seed")).hex(),
            "seed": derive("seed").hex(),
        },
    )

    dealt = split(derive("secret"), threshold=3, count=4, rand=stream("coefficients"))
    yield (
        "sharing",
        {
            "secret": derive("secret").hex(),
            "threshold": 3,
            "rand": "coefficients",
            "shares": [share.hex() for share in dealt],
        },
    )

    values = [0.0, 1.0, -1.0, 0.25, -0.25, 1e-3, -1e-3, 3.0, -3.0, 1e30, 1e-30]
    for bits in (16, 32):
        encoding = FixedPoint(ring_bits=bits, coordinate_range=1.0, sites=10)
        words, clamped = encoding.encode(
            np.array(values, dtype=np.float32), 0.75, rounding=Rounding(derive("rounding"))
        )
        yield (
            f"encode_{bits}",
            {
                "ring_bits": bits,
                "coordinate_range": 1.0,
                "sites": 10,
                "q_max": encoding.q_max,
                "weight": 0.75,
                "rounding_key": derive("rounding").hex(),
                "values": values,
                "words": words.tolist(),
                "clamped": clamped,
                "decoded": encoding.decode(words).tolist(),
            },
        )


def rounds() -> Iterator[tuple[str, Vector]]:
    """Whole rounds."""
    study = Study(n=3, cohort="fixed")
    yield "round_of_3_fixed_32_bits", whole_round(study, study.terms.sites)
    study = Study(n=4, bits=16)
    yield "round_of_4_one_dropped_16_bits", whole_round(study, study.terms.sites[:3])


def refused_setups() -> Iterator[tuple[str, Vector]]:
    """Announcements that the first site must refuse before it masks."""
    study = Study(n=5)
    good = study.setups()
    bad = good[2]
    key = study.signing[bad.site]
    boxes = bad.boxes[BOX_BYTES : 2 * BOX_BYTES] + bad.boxes[:BOX_BYTES] + bad.boxes[2 * BOX_BYTES :]
    changes: dict[str, Vector] = {
        "another_sites_key": {"public": good[1].public},
        "key_of_low_order": {"public": b"\1" + bytes(31)},
        "key_not_reduced": {"public": (2**255 - 19 + 9).to_bytes(32, "little")},
        "other_threshold": {"threshold": 2},
        "other_study_keys": {"keys_digest": derive("other keys")},
        "swapped_boxes": {"boxes": boxes},
        "share_not_committed_to": {"share_commitments": bytes(len(bad.share_commitments))},
    }
    cases = {name: [*good[:2], signed(replace(bad, **change), key), *good[3:]] for name, change in changes.items()}
    cases["forged_signature"] = [*good[:2], replace(bad, signature=good[1].signature), *good[3:]]
    cases["without_the_reader"] = good[1:]
    cases["too_few"] = good[:3]
    codes = {"without_the_reader": "set-refused", "too_few": "too-few-sites"}
    for name, setups in cases.items():
        yield (
            f"refuse_announcement_{name}",
            study.describe()
            | {
                "step": "accept",
                "refused": codes.get(name, "setup-refused"),
                "announcement": study.announcement(setups).to_bytes().hex(),
            },
        )


def refused_later() -> Iterator[tuple[str, Vector]]:
    """What the first site must refuse once it has masked: sets of survivors, confirmations."""
    study = Study(n=7)
    setups = study.setups()
    announcement = study.announcement(setups[:6])
    sites = study.terms.sites
    common = study.describe() | {"announcement": announcement.to_bytes().hex()}

    def chosen(numbers: Sequence[int], digest: bytes | None = None) -> Survivors:
        names = tuple(sites[number] for number in numbers)
        return Survivors(
            terms=study.terms, turn=announcement.turn, announcement=digest or announcement.digest(), sites=names
        )

    for name, survivors, code in (
        ("without_the_reader", chosen(range(1, 6)), "set-refused"),
        ("not_announced", chosen(range(7)), "set-refused"),
        ("too_few", chosen(range(4)), "too-few-sites"),
        ("other_announcement", chosen(range(6), derive("other")), "second-story"),
    ):
        yield (
            f"refuse_survivors_{name}",
            common
            | {
                "step": "confirm",
                "refused": code,
                "survivors": survivors.to_bytes().hex(),
            },
        )

    for name in sites[:6]:
        vector, counts = study.words(name)
        study.sites[name].mask(announcement, study.model, vector, counts)
    survivors = chosen(range(6))
    good = [study.sites[name].confirm(survivors) for name in sites[:6]]

    def forged(number: int, **change: Any) -> Any:
        changed = replace(good[0], site=sites[number], **change)
        return signed(changed, study.signing[sites[number]])

    for name, shown in (
        ("too_few", good[:4]),
        ("twice", [*good[:4], good[3]]),
        ("forged_signature", [*good[:4], replace(good[4], signature=good[3].signature)]),
        ("no_survivor", [*good[:4], forged(6)]),
        ("other_set", [*good[:4], forged(4, survivors=sites[:5])]),
        ("other_model", [*good[:4], forged(4, model=derive("other model"))]),
    ):
        yield (
            f"refuse_confirmations_{name}",
            common
            | {
                "step": "unmask",
                "refused": "not-confirmed",
                "survivors": survivors.to_bytes().hex(),
                "confirmations": [one.to_bytes().hex() for one in shown],
            },
        )


def refused_bytes() -> Iterator[tuple[str, Vector]]:
    """Bytes that are no message."""
    study = Study(n=4)
    setup = study.setups()[0].to_bytes()
    survivors = Survivors(
        terms=study.terms,
        turn=Turn(plan_digest=study.terms.plan_digest, round=1, attempt=1),
        announcement=derive("announcement"),
        sites=study.terms.sites,
    ).to_bytes()
    whole = study.announcement(study.setups()).to_bytes()
    half = (len(whole) - 44) // 4
    for name, kind, data in (
        ("too_short", "setup", setup[:-1]),
        ("too_long", "setup", setup + b"\0"),
        ("version_2", "setup", setup[:3] + b"\2" + setup[4:]),
        ("another_kind", "setup", setup[:4] + b"\1" + setup[5:]),
        ("another_plan", "setup", setup[:5] + bytes(32) + setup[37:]),
        ("attempt_0", "setup", setup[:41] + b"\0\0" + setup[43:]),
        ("unknown_site", "setup", setup[:43] + b"\4" + setup[44:]),
        ("set_of_unknown_sites", "survivors", survivors[:-1] + b"\x1f"),
        ("setups_in_another_order", "announcement", whole[:44] + whole[44 + half :] + whole[44 : 44 + half]),
    ):
        yield (
            f"refuse_bytes_{name}",
            study.describe()
            | {
                "step": "parse",
                "kind": kind,
                "refused": "message",
                "data": data.hex(),
            },
        )


def refused_keys() -> Iterator[tuple[str, Vector]]:
    """Study keys for which the first site must deal nothing out."""
    study = Study(n=4)
    first, second, third, fourth = study.keys
    stranger = Ed25519PrivateKey.from_private_bytes(derive("stranger"))
    for name, keys in (
        ("not_enrolled", [first, signed(second, stranger), third, fourth]),
        ("too_few", [first, second]),
        ("twice", [first, second, second, fourth]),
        ("another_sites", [first, second, signed(replace(third, key=second.key), study.signing["site-2"]), fourth]),
    ):
        yield (
            f"refuse_keys_{name}",
            study.describe()
            | {
                "step": "setup",
                "refused": "too-few-sites" if name == "too_few" else "key-refused",
                "study_keys": [key.to_bytes().hex() for key in keys],
            },
        )


def vectors() -> dict[str, str]:
    """Return the content of every file by its name."""
    parts = (building_blocks, rounds, refused_setups, refused_later, refused_bytes, refused_keys)
    return {
        f"{name}.json": json.dumps(vector, indent=1, sort_keys=True) + "\n" for part in parts for name, vector in part()
    }


def main() -> None:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with what is there, write nothing")
    arguments = parser.parse_args()
    wanted = vectors()
    if arguments.check:
        found = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
        different = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        if different:
            sys.exit(f"These vectors differ from what the code gives: {', '.join(different)}.")
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for name, content in wanted.items():
        (FOLDER / name).write_text(content)


if __name__ == "__main__":
    main()
