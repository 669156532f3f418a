"""Products of an imaginary shop, drawn at random; training and test share no name and no price."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from random import Random
from typing import Literal

Split = Literal["training", "test"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 35, 40),
    "orange": (240, 135, 25),
    "yellow": (235, 205, 40),
    "green": (45, 150, 70),
    "blue": (40, 85, 205),
    "purple": (130, 60, 165),
    "brown": (125, 80, 45),
    "black": (35, 35, 40),
}
KINDS = ("mug", "lamp", "bag", "ball", "book", "clock", "chair", "bottle")
BADGES = ("NEW", "SALE", "ECO", "HOT")
MAX_COUNT = 4
MAX_RATING = 5

_ONSETS = (
    *("Ka", "Mi", "Lo", "Ru", "Te", "Bo", "Sa", "Ni", "Fe", "Du", "Vi", "Za", "Go", "Pa"),
    *("He", "Wu", "Ma", "Li", "Ro", "Tu", "Be", "So", "Na", "Di", "Ve", "Ga", "Pi", "Hu"),
)
_CODAS = (
    *("vo", "lu", "ra", "nix", "ta", "mo", "bel", "zu", "kin", "dor", "sy", "pel", "go", "fa"),
    *("rim", "to", "va", "li", "ro", "nex", "tu", "mi", "bor", "za", "ken", "das", "son", "per"),
)
_CENTS = (0, 15, 25, 40, 49, 50, 65, 80, 95, 99)
_TEST_SHARE = 8  # one name and one price in eight


@dataclass(frozen=True)
class Product:
    """What a card shows; None: it does not show that."""

    kind: str
    colour: str
    count: int
    price_cents: int
    name: str | None
    rating: int | None
    badge: str | None

    @property
    def price(self) -> str:
        """The price as it is printed: "$24.95"."""
        return format_price(self.price_cents)

    @property
    def noun(self) -> str:
        """The kind in the number that is shown: "mugs"."""
        return plural(self.kind) if self.count > 1 else self.kind


def format_price(cents: int) -> str:
    """Dollars and cents: "$24.95"."""
    return f"${cents // 100}.{cents % 100:02d}"


def plural(kind: str) -> str:
    """The plural of a kind: mugs for mug."""
    return kind + "s"


def split_of(text: str) -> Split:
    """To which half a name or a price belongs; it never occurs in the other."""
    return "test" if zlib.crc32(text.encode()) % _TEST_SHARE == 0 else "training"


def names(split: Split) -> tuple[str, ...]:
    """All names of a half."""
    return _NAMES[split]


def prices(split: Split) -> tuple[int, ...]:
    """All prices of a half, in cents."""
    return _PRICES[split]


def _split_names() -> dict[Split, tuple[str, ...]]:
    every = [onset + coda for onset in _ONSETS for coda in _CODAS]
    return {split: tuple(name for name in every if split_of(name) == split) for split in ("training", "test")}


def _split_prices() -> dict[Split, tuple[int, ...]]:
    every = [dollars * 100 + cents for dollars in range(1, 100) for cents in _CENTS]
    return {
        split: tuple(cents for cents in every if split_of(format_price(cents)) == split)
        for split in ("training", "test")
    }


_NAMES = _split_names()
_PRICES = _split_prices()


def random_product(random: Random, split: Split, *, full: bool = True) -> Product:
    """Draws a product.

    Args:
        random: Source of random numbers.
        split: From which half its name and its price come.
        full: With name, rating and perhaps a badge; False: what fits on a tiny card.
    """
    return Product(
        kind=random.choice(KINDS),
        colour=random.choice(list(COLOURS)),
        count=random.randint(1, MAX_COUNT),
        price_cents=random.choice(prices(split)),
        name=random.choice(names(split)) if full else None,
        rating=random.randint(1, MAX_RATING) if full else None,
        badge=random.choice(BADGES) if full and random.random() < 0.75 else None,
    )
