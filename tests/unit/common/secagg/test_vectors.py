"""Every vector is what the script writes, and is read here through the code: taken or refused as it says."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from hansa_common.errors import HansaError
from hansa_common.secagg import (
    Announcement,
    Answer,
    Confirmation,
    FixedPoint,
    MaskedInput,
    ServerSession,
    Setup,
    SiteMemory,
    SiteSession,
    StudyKey,
    Survivors,
    Terms,
    Turn,
)
from hansa_common.secagg.agreement import (
    Shares,
    commit_seed,
    commit_share,
    open_box,
    pair_keys,
    seal,
    self_keys,
)
from hansa_common.secagg.fixedpoint import Rounding
from hansa_common.secagg.masking import KeyStream, apply, room
from hansa_common.secagg.sharing import combine, split, weights

REPOSITORY = Path(__file__).parents[4]
FOLDER = REPOSITORY / "tests" / "vectors" / "secagg"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("secagg_vectors", REPOSITORY / "scripts" / "secagg_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = script()


def turn_of(vector: Any) -> Turn:
    return Turn(plan_digest=vector["plan_digest"], round=vector["round"], attempt=vector["attempt"])


def terms_of(vector: Any) -> Terms:
    return Terms(**(vector["terms"] | {"sites": tuple(vector["terms"]["sites"])}))


def site_of(vector: Any, name: str) -> SiteSession:
    secrets = vector["secrets"][name]
    return SiteSession(
        terms=terms_of(vector),
        site=name,
        signing=Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secrets["signing"])),
        study_key=X25519PrivateKey.from_private_bytes(bytes.fromhex(secrets["study"])),
        directory=vector["directory"],
        memory=SiteMemory(),
        save=lambda memory: None,
        rand=SCRIPT.stream(secrets["rand"]),
    )


def test_the_folder_holds_what_the_script_writes() -> None:
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == SCRIPT.vectors()
    assert sum(name.startswith("refuse_") for name in NAMES) >= 25


def test_prg() -> None:
    vector, buffer = read("prg"), room()
    KeyStream(bytes.fromhex(vector["key"])).fill(buffer, 100)
    assert buffer[:100].tobytes().hex() == vector["stream"]
    for dtype, expected in vector["0_to_7"].items():
        words = np.arange(8, dtype=dtype)
        apply(words, add=[bytes.fromhex(vector["key"])], subtract=[bytes.fromhex(vector["subtract"])])
        assert words.tolist() == expected


def test_hkdf() -> None:
    """Against RFC 5869, section 2.2: without a salt, the extracted key is an HMAC under 32 zeros."""
    import hmac

    vector, turn = read("hkdf"), turn_of(read("hkdf"))
    secret = bytes.fromhex(vector["secret"])
    bound = {name: bytes.fromhex(vector[name]) for name in ("announcement", "model")}
    pair = pair_keys(turn, "site-0", "site-1", secret=secret, **bound)
    own = self_keys(turn, "site-0", seed=secret, **bound)
    assert pair == pair_keys(turn, "site-1", "site-0", secret=secret, **bound)
    for keys, name in ((pair, "pair"), (own, "self")):
        info = bytes.fromhex(vector[f"{name}_info"])
        derived = HKDFExpand(SHA256(), 64, info).derive(hmac.digest(bytes(32), secret, "sha256"))
        assert (keys.vector + keys.counts).hex() == derived.hex()
        assert {"vector": keys.vector.hex(), "counts": keys.counts.hex()} == vector[name]


def test_box() -> None:
    vector, turn = read("box"), turn_of(read("box"))
    holder = X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["holder_key"]))
    shares = Shares(seed=bytes.fromhex(vector["share_of_seed"]), key=bytes.fromhex(vector["share_of_key"]))
    ends = {"dealer": vector["dealer"], "holder": vector["holder"]}
    public = holder.public_key().public_bytes_raw()
    box = seal(turn, **ends, holder_key=public, shares=shares, rand=SCRIPT.stream(vector["rand"]))
    assert box.hex() == vector["box"]
    assert open_box(turn, **ends, holder_key=holder, box=box) == shares
    for kind, share in (("seed", shares.seed), ("key", shares.key)):
        commitment = commit_share(turn, kind, vector["dealer"], vector["holder"], share)
        assert commitment.hex() == vector[f"commitment_of_{kind}_share"]
    assert commit_seed(turn, vector["dealer"], bytes.fromhex(vector["seed"])).hex() == vector["commitment_of_seed"]
    for position in range(len(box)):
        damaged = bytearray(box)
        damaged[position] ^= 1
        assert open_box(turn, **ends, holder_key=holder, box=bytes(damaged)) is None


def test_sharing() -> None:
    vector = read("sharing")
    secret, shares = bytes.fromhex(vector["secret"]), [bytes.fromhex(share) for share in vector["shares"]]
    assert split(secret, threshold=3, count=4, rand=SCRIPT.stream(vector["rand"])) == shares
    assert combine(weights([1, 3, 4]), [shares[0], shares[2], shares[3]]) == secret


@pytest.mark.parametrize("bits", [16, 32])
def test_encode(bits: int) -> None:
    vector = read(f"encode_{bits}")
    encoding = FixedPoint(ring_bits=bits, coordinate_range=vector["coordinate_range"], sites=vector["sites"])
    values = np.array(vector["values"], dtype=np.float32)
    rounding = Rounding(bytes.fromhex(vector["rounding_key"]))
    words, clamped = encoding.encode(values, vector["weight"], rounding=rounding)
    assert (encoding.q_max, words.tolist(), clamped) == (vector["q_max"], vector["words"], vector["clamped"])
    assert encoding.decode(words).tolist() == vector["decoded"]


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("round_")])
def test_a_whole_round(name: str) -> None:
    vector = read(name)
    terms = terms_of(vector)
    keys = [StudyKey.from_bytes(bytes.fromhex(key), terms) for key in vector["study_keys"]]
    sites = {site: site_of(vector, site) for site in terms.sites}
    assert [site.study_key_statement() for site in sites.values()] == keys
    announcement = Announcement.from_bytes(bytes.fromhex(vector["announcement"]), terms)
    assert announcement.digest().hex() == vector["announcement_digest"]
    assert tuple(site.setup(1, 1, keys) for site in sites.values()) == announcement.setups
    server = ServerSession(
        terms=terms, round_number=1, attempt=1, size=5, counts=2, keys=keys, directory=vector["directory"]
    )
    for setup in announcement.setups:
        server.add_setup(setup)
    model = bytes.fromhex(vector["model"])
    assert server.announce(model) == announcement
    for site, words in vector["inputs"].items():
        arrays = np.array(words["vector"], dtype=terms.dtype), np.array(words["counts"], dtype="<u8")
        masked = sites[site].mask(announcement, model, *arrays)
        said = vector["masked"][site]
        assert masked == MaskedInput.from_bytes(bytes.fromhex(said["header"]), terms)
        assert (arrays[0].tolist(), arrays[1].tolist()) == (said["vector"], said["counts"])
        server.add_masked(masked, *arrays)
    survivors = Survivors.from_bytes(bytes.fromhex(vector["survivors"]), terms)
    assert server.survivors() == survivors
    confirmations = [Confirmation.from_bytes(bytes.fromhex(one), terms) for one in vector["confirmations"]]
    for confirmation in confirmations:
        site = confirmation.site
        assert sites[site].confirm(survivors, head=bytes.fromhex(vector["log_heads"][site])) == confirmation
        server.add_confirmation(confirmation)
    for answer in (Answer.from_bytes(bytes.fromhex(one), terms) for one in vector["answers"]):
        assert sites[answer.site].unmask(confirmations) == answer
        server.add_answer(answer)
    total = server.sum()
    assert {"vector": total[0].tolist(), "counts": total[1].tolist()} == vector["sum"]


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("refuse_")])
def test_what_must_be_refused_is_refused_as_it_says(name: str) -> None:
    vector = read(name)
    terms = terms_of(vector)
    session = site_of(vector, terms.sites[0])

    def message(kind: Any, field: str) -> Any:
        return kind.from_bytes(bytes.fromhex(vector[field]), terms)

    keys = [StudyKey.from_bytes(bytes.fromhex(key), terms) for key in vector["study_keys"]]
    step = vector["step"]
    if step not in {"parse", "setup"}:
        session.setup(1, 1, keys)
    if step in {"confirm", "unmask"}:
        empty = np.zeros(0, dtype=terms.dtype), np.zeros(0, dtype="<u8")
        session.mask(message(Announcement, "announcement"), bytes.fromhex(vector["model"]), *empty)
    if step == "unmask":
        session.confirm(message(Survivors, "survivors"))
    kinds = {"setup": Setup, "survivors": Survivors, "announcement": Announcement}
    steps: dict[str, Callable[[], object]] = {
        "parse": lambda: message(kinds[vector["kind"]], "data"),
        "setup": lambda: session.setup(1, 1, keys),
        "accept": lambda: session.accept(message(Announcement, "announcement")),
        "confirm": lambda: session.confirm(message(Survivors, "survivors")),
        "unmask": lambda: session.unmask(
            [Confirmation.from_bytes(bytes.fromhex(one), terms) for one in vector["confirmations"]]
        ),
    }
    with pytest.raises(HansaError) as refusal:
        steps[step]()
    assert refusal.value.code == vector["refused"]
