from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scstore.spec import canonical_json, differences, fingerprint, seal, unseal

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
SPACES = st.dictionaries(st.text(), LEAVES | st.dictionaries(st.text(), LEAVES), max_size=6)


@given(SPACES)
def test_the_order_of_keys_does_not_matter(space: dict[str, object]) -> None:
    turned = dict(reversed(list(space.items())))
    assert fingerprint(turned) == fingerprint(space)
    assert differences(space, turned) == []


@given(SPACES, SPACES)
def test_equal_fingerprints_mean_equal_spaces(left: dict[str, object], right: dict[str, object]) -> None:
    assert (fingerprint(left) == fingerprint(right)) == (canonical_json(left) == canonical_json(right))


def test_the_fingerprint_never_changes() -> None:
    space = {"layer": 6, "model": {"digest": "sha256:aa"}, "instruction": "what is «it»?"}
    assert fingerprint(space) == "sha256:a06db376bdf444aca5970dccba3adb3f1e3bc05e0d4e6eae5ba11b787c13f97a"


def test_differences_name_nested_fields_old_and_new() -> None:
    old = {"model": {"digest": "a"}, "layer": 1, "panel": None}
    new = {"model": {"digest": "b"}, "layer": 1, "seed": 0}
    assert differences(old, new) == ['model.digest: "a" → "b"', "panel: null → (absent)", "seed: (absent) → 0"]


@given(SPACES)
def test_a_sealed_value_opens_and_a_changed_one_does_not(space: dict[str, object]) -> None:
    body = {key: value for key, value in space.items() if key != "digest"}
    assert unseal(seal(body)) == body
    assert unseal({**seal(body), "another": 1}) is None
    assert unseal(body) is None


@pytest.mark.parametrize("value", [None, [], "text", 3, {"digest": 1}])
def test_what_was_never_sealed_does_not_open(value: object) -> None:
    assert unseal(value) is None


def test_nan_has_no_fingerprint() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"value": math.nan})
