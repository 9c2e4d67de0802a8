"""What passes return comes back to the last bit, and nothing else comes back at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgmm.data import open_samples
from dgmm.engine import Fold
from dgmm.engine.workers import threads
from dgmm.families import FAMILIES
from dgmm.fits import Training
from dgmm.mixture import Mixture
from dgmm.passes import Passes, from_parts, packed, profile_of, to_parts, unpacked
from dgmm.passes.codec import MAGIC


def mixture(name: str, d: int = 2) -> Mixture:
    r = np.random.default_rng(0)
    scatter = r.normal(size=(3, d, d))
    full = scatter @ scatter.transpose(0, 2, 1) + np.eye(d)
    variances = full.diagonal(axis1=1, axis2=2)
    covariances = {"full": full, "tied": full[0], "diag": variances, "spherical": variances[:, 0]}[name]
    return Mixture.gaussian(name, r.uniform(1, 2, 3), r.normal(size=(3, d)), covariances)


class Seen:
    """A fold that remembers what it has returned."""

    def __init__(self, fold: Fold) -> None:
        self.fold = fold
        self.values: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fold, name)

    def __call__(self, leaf: Any) -> Any:
        self.values.append(self.fold(leaf))
        return self.values[-1]


def values(weighted: bool) -> list[Any]:
    """What passes of every kind return."""
    r = np.random.default_rng(0)
    x = r.normal(size=(900, 2)).astype(np.float32)
    x[::50, 1] = np.nan
    samples = open_samples(x, weights=r.uniform(0.5, 2, 900) if weighted else None)
    options = Training(sample_rows=100, holdout=0.2, holdout_by={"sample": 30})
    fold: Any = Seen(Fold(samples, threads(1)))
    passes = Passes(fold, samples, profile_of(fold, samples, options), options)
    mixtures = [mixture(name) for name in FAMILIES if name in ("full", "tied", "diag", "spherical")]
    passes.accumulate([m.to_frame(passes.frame(m.family.frame)) for m in mixtures])
    passes.judge(mixtures)
    passes.worst(mixtures, 10)
    return [*fold.values, tuple(mixtures)]


def of(value: Any) -> tuple[str, list[tuple[Any, ...]]]:
    """All bits of a value."""
    tree, arrays = to_parts(value)
    return json.dumps(tree), [(a.dtype.str, a.shape, a.flags.f_contiguous, a.tobytes("A")) for a in arrays]


@pytest.mark.parametrize("weighted", [False, True])
def test_what_passes_return_comes_back_to_the_last_bit(weighted: bool) -> None:
    for value in values(weighted):
        tree, arrays = to_parts(value)
        again = from_parts(json.loads(json.dumps(tree, sort_keys=True, allow_nan=False)), arrays)
        assert type(again) is type(value)
        assert of(again) == of(value)


@pytest.mark.parametrize("value", [
    None, True, False, 0, 2**64 - 1, -3, "text", 0.1, -0.0, np.inf, -np.inf, np.nan, np.float64(0.1), np.float32(0.1),
    np.uint64(7), np.bool_(True), (), [], (1, [2.0]), {"a": (1,)}, {}, np.zeros(()), np.zeros((0, 3)), np.arange(3) > 1,
])  # fmt: skip
def test_numbers_texts_and_containers_come_back_as_what_they_were(value: Any) -> None:
    tree, arrays = to_parts(value)
    again = from_parts(json.loads(json.dumps(tree, allow_nan=False)), arrays)
    assert type(again) is type(value)
    assert of(again) == of(value)
    assert repr(again) == repr(value)


def test_what_there_is_no_rule_for_is_not_guessed() -> None:
    for value in (object(), {1, 2}, b"bytes", lambda: None):
        with pytest.raises(TypeError, match="no rule"):
            to_parts(value)


@pytest.mark.parametrize(("tree", "words"), [
    ({"type": ["Popen", {"args": "ls"}]}, "KeyError"),
    ({"type": ["Moments", {"count": 1}]}, "a Moments with count"),
    ({"mixture": ["unheard", {"tuple": []}]}, "."),
    ({"array": 3}, "IndexError"),
    ({"array": 0, "scalar": 0}, "."),
    ({"float": "00"}, "."),
    ({"role": "chief"}, "chief"),
    ({"what": 1}, "unknown kind"),
    (1.5, "a float by itself"),
    ({}, "."),
])  # fmt: skip
def test_trees_that_no_value_leads_to_are_refused(tree: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_parts(tree, [np.zeros(2)])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "mixture", "array", "scalar", "tuple", "list", "mapping", "role", "float"]),
            inner | st.tuples(st.sampled_from(["Moments", "ByRole", "full"]), inner).map(list),
            max_size=2,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_a_tree_says_it_is_a_value_or_an_error(tree: Any) -> None:
    with contextlib.suppress(ValueError):
        from_parts(tree, [np.zeros(2)])


# ---- records ---------------------------------------------------------------------------------------------------------

ARRAYS = [
    np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.zeros((0, 4), np.float32),
    np.array(1.5), np.arange(3) > 1, np.arange(3, dtype=np.uint64), np.arange(8.0)[::2],
]  # fmt: skip


def test_a_record_holds_arrays_as_they_are() -> None:
    header, arrays, _ = unpacked(packed({"a": 1}, ARRAYS))
    assert header["a"] == 1
    for before, after in zip(ARRAYS, arrays, strict=True):
        assert (after.dtype, after.shape, after.tobytes()) == (before.dtype, before.shape, before.tobytes())
        if before.flags.forc:  # products of matrices round by how they lie
            assert after.flags.f_contiguous == before.flags.f_contiguous
        assert after.flags.writeable
    with pytest.raises(TypeError, match="no array of object"):
        packed({}, [np.array([None])])


def forged(words: bytes, rest: bytes = b"", length: int | None = None) -> bytes:
    """A record with a right digest whatever it says."""
    size = len(words) if length is None else length
    body = MAGIC + size.to_bytes(8, "little") + words + rest
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize("header", [
    {}, [], 3, {"arrays": 3}, {"arrays": [["<f8", [10**15], "C"]]}, {"arrays": [["<f8", [-1], "C"]]},
    {"arrays": [["O", [1], "C"]]}, {"arrays": [["V8", [1], "C"]]}, {"arrays": [["<f8", [1.0], "C"]]},
    {"arrays": [["<f8", [0, 10**40], "C"]]}, {"arrays": [["<f8", [1], "K"]]}, {"arrays": [["what", [1], "C"]]},
    {"arrays": [["<f8", [True], "C"]]}, {"arrays": [["<f8", [], "C", 1]]}, {"arrays": []},
])  # fmt: skip
def test_a_record_that_says_what_cannot_be_is_refused_before_it_takes_memory(header: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpacked(forged(json.dumps(header).encode(), b"\0" * 8))


def test_a_header_that_says_that_it_is_longer_than_the_record_is_refused() -> None:
    for length in (3, 10**12, 2**64 - 1):
        with pytest.raises(ValueError, match="its header has"):
            unpacked(forged(b"{}", length=length))


RECORD_BYTES = packed({"before": "", "entry": {"list": []}}, ARRAYS)


@given(st.lists(st.tuples(st.integers(0, len(RECORD_BYTES) - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_bytes_that_change_are_noticed(changes: list[tuple[int, int]]) -> None:
    changed = bytearray(RECORD_BYTES)
    for place, mask in changes:
        changed[place] ^= mask
    if bytes(changed) != RECORD_BYTES:
        with pytest.raises(ValueError, match=r"."):
            unpacked(bytes(changed))


@given(st.binary(max_size=200), st.integers(0, 200))
def test_whatever_a_record_says_it_is_read_or_refused(noise: bytes, place: int) -> None:
    """With a digest that is right, as nothing but a mistake or malice leaves it."""
    body = RECORD_BYTES[:-32]
    body = body[:place] + noise + body[place + len(noise) :]
    with contextlib.suppress(ValueError):
        unpacked(body + hashlib.sha256(body).digest())
