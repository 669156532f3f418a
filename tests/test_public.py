"""What `import valley2_edge` offers."""

from __future__ import annotations

import pytest

import valley2_edge


def test_every_public_name_exists() -> None:
    for name in valley2_edge.__all__:
        assert getattr(valley2_edge, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Valley3'"):
        _ = valley2_edge.Valley3
