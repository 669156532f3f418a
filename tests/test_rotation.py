from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from pydantic import ValidationError

from valley2_edge.rotation import Rotation

SIZES = (1, 3, 40, 41, 96, 576, 3584)


def _matrix(size: int, seed: int) -> np.ndarray:
    """R entry by entry, as docs/bundle.md has it."""
    odd = size
    while odd % 2 == 0:
        odd //= 2
    power = size // odd
    matrix = np.empty((size, size))
    for row in range(size):
        sign = -1 if hashlib.sha256(f"{seed}/{row}".encode()).digest()[0] & 1 else 1
        for column in range(size):
            angle = 2 * math.pi * (row // power) * (column // power) / odd
            hartley = (math.cos(angle) + math.sin(angle)) / math.sqrt(odd)
            hadamard = (-1) ** bin((row % power) & (column % power)).count("1") / math.sqrt(power)
            matrix[row, column] = sign * hartley * hadamard
    return matrix


@pytest.mark.parametrize("size", SIZES)
def test_the_matrix_is_orthogonal_and_flat(size: int) -> None:
    matrix = Rotation().turn(np.eye(size))
    assert np.abs(matrix @ matrix.T - np.eye(size)).max() < 1e-13
    assert np.abs(matrix).max() < math.sqrt(2 / size) + 1e-12
    vectors = np.random.default_rng(0).normal(size=(2, 3, size))
    assert np.abs(Rotation().turn_back(Rotation().turn(vectors)) - vectors).max() < 1e-13


@pytest.mark.parametrize(("size", "seed"), [(1, 0), (12, 0), (40, 3), (96, 1)])
def test_the_matrix_is_the_one_that_is_documented(size: int, seed: int) -> None:
    assert np.abs(Rotation(seed=seed).turn(np.eye(size)) - _matrix(size, seed)).max() < 1e-14


def test_query_heads_undo_what_their_kv_head_did() -> None:
    numbers = np.random.default_rng(1)
    kv_heads, sharing, size, hidden, positions = 2, 3, 10, 7, 5
    values = numbers.normal(size=(positions, kv_heads * size))
    output = numbers.normal(size=(hidden, kv_heads * sharing * size))
    rotation = Rotation(seed=2)

    def attended(given: np.ndarray) -> np.ndarray:
        heads = given.mean(axis=0).reshape(kv_heads, 1, size)  # attention with equal shares
        return np.broadcast_to(heads, (kv_heads, sharing, size)).reshape(-1)

    turned = rotation.turn_values(output, size, sharing) @ attended(rotation.turn_values(values, size))
    assert np.abs(turned - output @ attended(values)).max() < 1e-13
    assert np.abs(rotation.turn_values(values, size) - values).max() > 0.1
    eye = rotation.turn_values(np.eye(kv_heads * size), size)
    assert not eye[:size, size:].any() and np.abs(eye[:size, :size] - eye[size:, size:]).max() > 0.1


@pytest.mark.parametrize("facts", [{"kind": "dct"}, {"seed": -1}, {"seed": "0"}, {"seed": True}, {"layers": 2}])
def test_a_rotation_that_does_not_exist_is_refused(facts: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Rotation.model_validate(facts)
