"""Seeds of everything that may be repeated: splits, partitions, initial weights, batches; never of noise or masks."""

import hashlib
import json


def derive_seed(seed: int, *parts: int | str) -> int:
    """Return a seed of 63 bits for one purpose: the head of SHA-256 over the seed and what it is for.

    Two purposes get independent seeds, and a purpose keeps its seed when another is added. The hashed bytes are a JSON
    list, so ``("a", "bc")`` and ``("ab", "c")``, or ``1`` and ``"1"``, differ.

    Args:
        seed: The plan's seed, or a seed that this function returned.
        parts: What it is for, from the general to the particular: ``3, "split"``.
    """
    content = "hansa-seed-1" + json.dumps([seed, *parts], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") >> 1
