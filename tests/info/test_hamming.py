"""The nearest codes in Hamming distance, against bits counted one by one."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from hartley.info.hamming import hamming_neighbors
from hartley.info.kernels import hamming_reference
from strategies import law, seeds

# Around 8 bytes a word ends, around 16 queries a group, and 2,000 codes of 80 bytes are more than a tile
sizes = st.tuples(
    st.sampled_from([1, 2, 15, 17, 40]), st.sampled_from([1, 3, 50, 2000]), st.sampled_from([1, 7, 8, 80])
)


def codes(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, width), dtype=np.uint8))


@law(sizes, st.integers(1, 5), seeds())
def test_the_kernel_and_the_definition_find_what_counting_finds(size, k, seed):
    asked, known = codes(size[0], size[2], seed), codes(size[1], size[2], seed + 1)
    k = min(k, size[1])
    bits = [np.unpackbits(rows.numpy(), axis=1).astype(np.float32) for rows in (asked, known)]
    away = (bits[0] @ (1 - bits[1].T) + (1 - bits[0]) @ bits[1].T).astype(np.int64)
    order = np.argsort(away, axis=1, kind="stable")[:, :k]
    words = [torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, -x.shape[1] % 8))).view(np.int64)) for x in (asked, known)]
    for distance, place in (hamming_neighbors(asked, known, k), hamming_reference.nearest(words[0], words[1], k)):
        np.testing.assert_array_equal(place.numpy(), order)
        np.testing.assert_array_equal(distance.numpy(), np.take_along_axis(away, order, 1))


def test_rows_of_a_larger_tensor():
    known = codes(50, 16, 0)
    distance, place = hamming_neighbors(known[::3, :8], known[:, :8], 1)
    assert distance.eq(0).all()
    assert place[:, 0].tolist() == list(range(0, 50, 3))


def test_codes_of_no_bits_do_not_differ():
    distance, place = hamming_neighbors(codes(2, 0, 0), codes(3, 0, 0), 2)
    assert distance.tolist() == [[0, 0]] * 2
    assert place.tolist() == [[0, 1]] * 2


def test_no_queries():
    distance, place = hamming_neighbors(codes(0, 8, 0), codes(3, 8, 0), 2)
    assert distance.shape == place.shape == (0, 2)


@pytest.mark.parametrize(
    ("queries", "known", "k", "error", "message"),
    [
        (codes(2, 3), codes(2, 4), 1, ValueError, r"queries must have 4 bytes a row, as the codes; got 3"),
        (codes(2, 3), codes(2, 3), 3, ValueError, r"k must be at most 2, the number of codes; got 3"),
        (codes(2, 3), codes(2, 3), 0, ValueError, r"k must be a whole number of at least 1; got 0"),
        (codes(2, 3)[0], codes(2, 3), 1, ValueError, r"queries must have shape \[rows, bytes\]; got \(3,\)"),
        (codes(2, 3), torch.zeros(2, 3), 1, TypeError, r"codes must be uint8, 8 bits packed in each; got torch.float"),
    ],
)  # fmt: skip
def test_bad_input(queries, known, k, error, message):
    with pytest.raises(error, match=message):
        hamming_neighbors(queries, known, k)
