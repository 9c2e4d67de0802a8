"""Labels along the features: which is which in other samples, and what is kept of them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgmm.data import Layout, comparable, matching_order, shortened
from dgmm.data.layout import as_numbers

LABELS: dict[str, np.ndarray] = {
    "floats": np.array([0.5, -10.0, 1e4, 3.0]),
    "single": np.array([0.1, -10.0, 1e4, 3.0], dtype="float32"),
    "whole numbers": np.array([7, -1, 2**40, 0]),
    "unsigned": np.array([3, 1, 200, 0], dtype="uint8"),
    "texts": np.array(["b", "a", "", "été"]),
    "days": np.array(["2001-01-03", "2001-01-01", "1969-12-31", "2262-01-01"], dtype="datetime64[ns]"),
    "durations": np.array([3, 1, -4, 0], dtype="timedelta64[h]"),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=list(LABELS))
@given(order=st.permutations(range(4)))
def test_every_order_is_found(labels: np.ndarray, order: list[int]) -> None:
    found = matching_order(labels, labels[order])
    assert found is not None
    np.testing.assert_array_equal(labels[order][found], labels)


@pytest.mark.parametrize("labels", LABELS.values(), ids=list(LABELS))
def test_others_are_not(labels: np.ndarray) -> None:
    """One more, one less, one in the place of another, one that comes twice."""
    for others in (labels[:3], np.append(labels, labels[:1]), labels[[0, 1, 2, 2]], labels[[0, 0, 1, 1]]):
        assert matching_order(labels, others) is None
        assert matching_order(others, labels) is None


@pytest.mark.parametrize(
    ("a", "b", "share", "expected"),
    [
        # to the rounding of sums in double precision, and not to what could be meant
        ("float64", "float64", 0.5e-9, True),
        ("float64", "float64", 2e-9, False),
        # to that of single precision, 8 units of it, if one of the two is
        ("float64", "float32", 7e-7, True),
        ("float64", "float32", 1.3e-6, False),
        ("float32", "float32", 7e-7, True),
        # half precision has three digits
        ("float16", "float64", 5e-3, True),
        ("float16", "float64", 1.2e-2, False),
    ],
)
def test_numbers_are_the_same_to_rounding(a: str, b: str, share: float, expected: bool) -> None:
    labels = np.array([256.0, 1024.0, 0.0])
    other = (labels * (1 + share)).astype(b)[[2, 0, 1]]
    for found in (matching_order(labels.astype(a), other), matching_order(other, labels.astype(a))):
        assert (found is not None) == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (["0.0", "10.0"], [10, 0], True),
        (["0", "10"], [10.0, 0.0], True),
        (["0.1", "1e1"], np.array([10.0, 0.1], dtype="float32"), True),
        (["0", "ten"], [10, 0], False),
        (["2001-01-02", "2001-01-01"], np.array(["2001-01-01", "2001-01-02"], dtype="datetime64[D]"), True),
        # texts are what they are
        (["0", "10"], ["10.0", "0.0"], False),
        # a number is no date
        ([0.0, 1.0], np.array([0, 1], dtype="datetime64[D]"), False),
    ],
)
def test_labels_of_different_kinds(a: Any, b: Any, expected: bool) -> None:
    a, b = np.array(a), np.array(b)
    assert (matching_order(a, b) is not None) == expected
    assert (matching_order(b, a) is not None) == expected


@pytest.mark.parametrize("labels", LABELS.values(), ids=list(LABELS))
def test_what_is_kept_is_what_was_there(labels: np.ndarray) -> None:
    """Through JSON, with the type, which says how far numbers may differ."""
    values, dtype = as_numbers(comparable(labels))
    layout = Layout(("v",), "z", values, dtype, ("m",), "s")
    text = json.dumps(asdict(layout), allow_nan=False)
    back = Layout(**{k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()})
    assert back == layout
    found = back.identities()
    assert found is not None
    assert found.dtype == comparable(labels).dtype or found.dtype.kind == "U"
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([1.0, np.nan]), ["1.0", "nan"]),
        (np.array([1.0, np.inf]), ["1.0", "inf"]),
        (np.array([True, False]), ["True", "False"]),
        (np.array(["a", 1], dtype=object), ["a", "1"]),
        (np.array(["a", "b"], dtype=object), ["a", "b"]),
    ],
)
def test_labels_that_are_no_numbers_are_texts(labels: np.ndarray, expected: list[str]) -> None:
    found = comparable(labels)
    assert (found.dtype.kind, found.tolist()) == ("U", expected)


def test_who_has_names() -> None:
    assert Layout(feature_dim="f").identities() is None
    assert Layout(("x",), "f").identities() is None
    variables = Layout(("b", "a")).identities()
    assert variables is not None
    assert variables.tolist() == ["b", "a"]


def test_descriptions() -> None:
    along = Layout(("t",), "z", (0.0, 1.0), "float64", ("K",), "m")
    assert along.describe(["0.0", "1.0"]) == "t (K) along z (m): 0.0, 1.0"
    assert replace(along, variables=(), units=(), label_units="").describe(["0.0", "1.0"]) == "along z: 0.0, 1.0"
    assert Layout(("b", "a"), units=("K", "")).describe(["b", "a"]) == "b (K), a"
    assert shortened([str(i) for i in range(8)]) == "0, 1, 2, 3, 4, 5, 6, 7"
    assert shortened([str(i) for i in range(9)]) == "0, 1, 2, 3, 4, 5, 6, 7, ..."


def test_some_of_the_features() -> None:
    named = Layout(variables=("a", "b", "c"), units=("K", "", "m"))
    assert named.taken([2, 0]) == Layout(variables=("c", "a"), units=("m", "K"))
    along = Layout(variables=("t",), feature_dim="z", labels=(0.0, 5.0, 10.0), dtype="float64", units=("K",))
    assert along.taken([2, 0]) == Layout(
        variables=("t",), feature_dim="z", labels=(10.0, 0.0), dtype="float64", units=("K",)
    )
    plain = Layout(feature_dim="feature")
    assert plain.taken([1]) == plain
