"""Questions about two or three cards: difference spotting and multi-image understanding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from valley2_edge.eval.questions.card import Form, draw_card, random_style
from valley2_edge.eval.questions.product import (
    BADGES,
    COLOURS,
    KINDS,
    MAX_COUNT,
    MAX_RATING,
    Product,
    Split,
    format_price,
    names,
    prices,
    random_product,
)
from valley2_edge.eval.questions.scene import Choice, Open, Scene, another, choice, matching, yes_or_no

ORDINALS = ("the first", "the second", "the third")
NONE = "none of them"
ALL_EQUAL = "all the same"
ATTRIBUTES = ("colour", "product", "count", "name", "price", "stars", "badge")

_FORMS: tuple[Form, ...] = ("square", "tall", "wide")
_FORM_SHARES = (0.6, 0.2, 0.2)
_ONE_BADGE_SHARE = 0.7
"""Share of the triples in which only one card has a badge, so that its place can be told before anything is read."""
_ASK_BADGE = ("Which picture has a badge?", "Where is the badge?", "In which picture is a badge?")
_ASK_PLACED = {
    "price": "What is the price in {0} picture?",
    "name": "What is the name in {0} picture?",
    "colour": "What colour is {0} product?",
    "product": "What is in {0} picture?",
    "count": "How many items are in {0} picture?",
    "stars": "How many stars has {0} picture?",
}
_PLACED_CHOICES = ("price", "name", "colour", "product")
"""Attributes with enough values for three wrong options besides those of the other pictures."""
_ASK_DIFFERENCE = ("What differs between the pictures?", "What has changed?")


def pair_scene(random: Random, split: Split) -> Scene:
    """Draws two cards that differ in one attribute."""
    first = random_product(random, split)
    first = first if first.badge is not None else replace(first, badge=random.choice(BADGES))
    attribute = random.choice(ATTRIBUTES)
    second = _changed(random, first, attribute, split)
    form = random.choices(_FORMS, _FORM_SHARES)[0]
    # The same layout twice: a colour or a size that wanders would be a second difference.
    style = random_style(random, form)
    pictures = (draw_card(first, style), draw_card(second, style))
    labels = [f"the {name}" for name in ATTRIBUTES]
    right = f"the {attribute}"
    difference = choice(random, "difference_spotting", _ASK_DIFFERENCE, right, labels)
    values = f"{_value(first, attribute)} and {_value(second, attribute)}"
    opens = [
        Open("difference", "Compare the pictures.", f"{right}: {values}"),
        *_reading(random, (first, second)),
        *_same(random, attribute),
        *_telling((first, second)),
        *_matching(random, (first, second)),
    ]
    more = choice(random, "difference_spotting", _ASK_DIFFERENCE, right, labels)
    return Scene(pictures, False, f"{right}: {values}", (difference, more), tuple(opens))


def twin_scene(random: Random, split: Split) -> Scene:
    """Draws two cards on which each attribute is the same or not by the toss of a coin."""
    first = replace(random_product(random, split), badge=random.choice(BADGES))
    changed = [attribute for attribute in ATTRIBUTES if random.random() < 0.5]
    second = first
    for attribute in changed:
        second = _changed(random, second, attribute, split)
    style = random_style(random, random.choices(_FORMS, _FORM_SHARES)[0])
    labels = [f"the {attribute}" for attribute in changed]
    caption = f"changed: {', '.join(labels)}" if labels else ALL_EQUAL
    opens = [
        Open("difference", "What are the differences?", ", ".join(labels) or "none"),
        *(_is_same(attribute, attribute not in changed) for attribute in ATTRIBUTES),
        *_telling((first, second)),
        *_reading(random, (first, second)),
    ]
    return Scene((draw_card(first, style), draw_card(second, style)), False, caption, (), tuple(opens))


def triple_scene(random: Random, split: Split) -> Scene:
    """Draws three cards, of which a question singles out one, or none."""
    form = random.choices(_FORMS, _FORM_SHARES)[0]
    products = [random_product(random, split) for _ in ORDINALS]
    place = random.randrange(len(ORDINALS) + 1)  # the last: none
    sought = random_product(random, split)
    products = _arrange(random, products, sought, place)
    counts = random.sample(range(1, MAX_COUNT + 1), 4)
    products = [replace(product, count=count) for product, count in zip(products, counts, strict=False)]
    if random.random() < _ONE_BADGE_SHARE:
        chosen = random.randrange(len(products))
        products = [replace(one, badge=_badge_if(random, index == chosen)) for index, one in enumerate(products)]
    equal_prices = random.random() < 0.25
    if equal_prices:
        products = [replace(product, price_cents=products[0].price_cents) for product in products]
    pictures = tuple(draw_card(product, random_style(random, form)) for product in products)
    choices = [
        _which(f"Which picture shows the {sought.colour} {sought.kind}?", place, NONE),
        _count(random, counts),
        _extreme(random, products),
        *_placed(random, products, split),
    ]
    listing = ", ".join(f"{product.colour} {product.kind}" for product in products)
    opens = [
        Open("list", "What is in each picture?", listing),
        *_reading(random, products),
        *(Open("which", asked.question, asked.right) for asked in choices[:2]),
        *_telling(products),
        *_matching(random, products),
    ]
    return Scene(pictures, False, listing, tuple(choices), tuple(opens))


def trio_scene(random: Random, split: Split) -> Scene:
    """Draws three cards of which no two have a colour, a kind or a count in common: each of them tells a card."""
    form = random.choices(_FORMS, _FORM_SHARES)[0]
    counts = random.sample(range(1, MAX_COUNT + 1), 4)
    colours, kinds = random.sample(list(COLOURS), len(ORDINALS)), random.sample(KINDS, len(ORDINALS))
    products = [
        replace(random_product(random, split), colour=colour, kind=kind, count=count)
        for colour, kind, count in zip(colours, kinds, counts, strict=False)
    ]
    pictures = tuple(draw_card(product, random_style(random, form)) for product in products)
    listing = ", ".join(f"{product.colour} {product.kind}" for product in products)
    opens = [Open("list", "What is in each picture?", listing), *_reading(random, products), *_telling(products)]
    return Scene(pictures, False, listing, (_count(random, counts), _extreme(random, products)), tuple(opens))


def _badge_if(random: Random, there: bool) -> str | None:
    return random.choice(BADGES) if there else None


def _which(question: str, place: int, otherwise: str) -> Choice:
    options = [*ORDINALS, otherwise]
    right = options.pop(place)
    return Choice("multi_image_understanding", question, right, (options[0], options[1], options[2]))


def _count(random: Random, counts: list[int]) -> Choice:
    place = random.randrange(4)  # the fourth count is the one that no picture shows
    return _which(f"Which picture shows {counts[place]} of its product?", place, NONE)


def _extreme(random: Random, products: list[Product]) -> Choice:
    values = [product.price_cents for product in products]
    lowest = random.random() < 0.5
    question = "Which picture has the lowest price?" if lowest else "Which picture has the highest price?"
    if len(set(values)) == 1:
        return _which(question, len(values), ALL_EQUAL)
    return _which(question, values.index(min(values) if lowest else max(values)), ALL_EQUAL)


def _placed(random: Random, products: Sequence[Product], split: Split) -> list[Choice]:
    """What one of the pictures shows, twice; the other pictures' values are among the wrong options."""
    pools: dict[str, Sequence[str]] = {"name": names(split), "colour": list(COLOURS), "product": KINDS}
    pools["price"] = [format_price(price) for price in prices(split)]
    placed = []
    for attribute in random.sample(_PLACED_CHOICES, 2):
        index = random.randrange(len(products))
        values = [_value(product, attribute) for product in products]
        wrong = sorted(set(values) - {values[index]})
        others = [value for value in pools[attribute] if value not in values]
        wrong += random.sample(others, 3 - len(wrong))
        question = _ASK_PLACED[attribute].format(ORDINALS[index])
        placed.append(Choice("multi_image_understanding", question, values[index], (wrong[0], wrong[1], wrong[2])))
    return placed


def _arrange(random: Random, products: list[Product], sought: Product, place: int) -> list[Product]:
    """Puts the sought colour and kind at `place`; the others share one of the two at most."""
    arranged = []
    for index, product in enumerate(products):
        if index == place:
            arranged.append(replace(product, colour=sought.colour, kind=sought.kind))
        elif random.random() < 0.5:
            colour = another(random, list(COLOURS), sought.colour)
            arranged.append(replace(product, colour=colour, kind=sought.kind))
        else:
            arranged.append(replace(product, colour=sought.colour, kind=another(random, KINDS, sought.kind)))
    return arranged


def _changed(random: Random, product: Product, attribute: str, split: Split) -> Product:
    if attribute == "colour":
        return replace(product, colour=another(random, list(COLOURS), product.colour))
    if attribute == "product":
        return replace(product, kind=another(random, KINDS, product.kind))
    if attribute == "count":
        return replace(product, count=another(random, range(1, MAX_COUNT + 1), product.count))
    if attribute == "name":
        return replace(product, name=another(random, names(split), product.name or ""))
    if attribute == "price":
        return replace(product, price_cents=another(random, prices(split), product.price_cents))
    if attribute == "stars":
        return replace(product, rating=another(random, range(1, MAX_RATING + 1), product.rating or 0))
    return replace(product, badge=another(random, BADGES, product.badge or ""))


def _same(random: Random, changed: str) -> list[Open]:
    """Whether an attribute is the same on both cards: one that is and the one that is not."""
    kept = another(random, ATTRIBUTES, changed)
    return [_is_same(attribute, attribute == kept) for attribute in (kept, changed)]


def _is_same(attribute: str, same: bool) -> Open:
    return Open("same", f"Is the {attribute} the same?", yes_or_no(same))


def _telling(products: Sequence[Product]) -> list[Open]:
    """Which picture it is, told by one attribute that no other picture shares."""
    questions = {
        "colour": "Which picture shows something {0}?",
        "product": "Which picture shows a {0}?",
        "count": "Which picture shows {0} of its product?",
        "stars": "Which picture has {0} stars?",
    }
    opens = []
    badges = [product.badge is not None for product in products]
    if badges.count(True) == 1:
        opens += [Open("which_badge", question, ORDINALS[badges.index(True)]) for question in _ASK_BADGE]
    for attribute, question in questions.items():
        values = [_value(product, attribute) for product in products]
        for ordinal, value in zip(ORDINALS, values, strict=False):
            if values.count(value) == 1:
                opens.append(Open(f"which_{attribute}", question.format(value), ordinal))
    return opens


def _matching(random: Random, products: Sequence[Product]) -> list[Open]:
    """Whether one of the pictures is as the question says."""
    opens = []
    for ordinal, product in zip(ORDINALS, products, strict=False):
        opens += matching(random, f"Is {ordinal} product {{0}}?", list(COLOURS), product.colour)
        opens += matching(random, f"Is {ordinal} product a {{0}}?", KINDS, product.kind)
    return opens


def _value(product: Product, attribute: str) -> str:
    values = {
        "colour": product.colour,
        "product": product.kind,
        "count": str(product.count),
        "name": product.name,
        "price": format_price(product.price_cents),
        "stars": str(product.rating),
        "badge": product.badge,
    }
    return values[attribute] or ""


def _reading(random: Random, products: Sequence[Product]) -> list[Open]:
    """Short questions about one of the pictures."""
    opens = []
    for attribute in random.sample(list(_ASK_PLACED), 4):
        index = random.randrange(len(products))
        question = _ASK_PLACED[attribute].format(ORDINALS[index])
        opens.append(Open("several", question, _value(products[index], attribute)))
    return opens
