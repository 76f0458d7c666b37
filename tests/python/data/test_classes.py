# SPDX-License-Identifier: Apache-2.0
"""Files about other classes are refused by name."""

from __future__ import annotations

import pytest

from instseg.data import check_same_classes


def check(expected, found, **ids):
    check_same_classes(expected, found, who="data.train", where="data.val: 'v.json'", **ids)


def test_the_same_classes():
    check(["a", "b"], ["b", "a"])
    check(["a", "N/A"], ["a"], expected_ids=[1, 2], found_ids=[1])
    check(["a", "b"], ["b", "a"], expected_ids=[1, 2], found_ids=[2, 1])


@pytest.mark.parametrize(
    ("expected", "found", "ids", "message"),
    [
        (["a", "b"], ["a"], {}, "missing 'b'"),
        (["a"], ["a", "b"], {}, "extra 'b'"),
        (["cat", "dog"], ["Cat", "dog"], {}, "missing 'cat', extra 'Cat'"),
        (list("abcdefgh"), [], {}, "missing 'a', 'b', 'c', 'd', 'e', 'f', ... (8)"),
        (["a", "b"], ["a", "b"], {"expected_ids": [1, 2], "found_ids": [1, 3]}, "'b' has id 3, expected 2"),
    ],
)
def test_other_classes(expected, found, ids, message):
    with pytest.raises(ValueError) as caught:
        check(expected, found, **ids)
    assert str(caught.value) == f"[data] data.val: 'v.json' has other classes than data.train: {message}"
