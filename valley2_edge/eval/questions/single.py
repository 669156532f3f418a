"""Questions about one product card: image understanding, OCR and product understanding."""

from __future__ import annotations

import json
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
from valley2_edge.eval.questions.scene import (
    Choice,
    Open,
    Scene,
    another,
    choice,
    grid_choice,
    matching,
    window,
)

FORMS: tuple[Form, ...] = ("square", "tall", "wide", "tiny", "large")
FORM_SHARES = (0.34, 0.22, 0.22, 0.14, 0.08)

ASK_PRICE = ("What is the price?", "How much does it cost?")
ASK_NAME = ("What is the name?", "What is it called?")
ASK_COLOUR = ("What colour is it?", "Which colour is the product?")
ASK_KIND = ("What is shown?", "Which product is this?")
ASK_COUNT = ("How many items are shown?", "How many are there?")
ASK_RATING = ("How many stars does it have?", "What is the rating?")
ASK_BADGE = ("Which badge is on it?", "What does the badge say?")
ASK_FIT = ("Which one fits the picture?", "Which description is right?")
ASK_DESCRIBE = ("Describe the product.", "Describe the picture.")
ASK_ATTRIBUTES = ("List the attributes as JSON.",)


def single_scene(random: Random, split: Split) -> Scene:
    """Draws a card of random form with all that can be asked about it."""
    form = random.choices(FORMS, FORM_SHARES)[0]
    product = random_product(random, split, full=form != "tiny")
    picture = draw_card(product, random_style(random, form))
    choices = [*_seen(random, product), *_read(random, product, split), *_understood(random, product, split)]
    opens = [*_opens(random, product), *_matching(random, product)]
    return Scene((picture,), False, describe(product), tuple(choices), tuple(opens))


def describe(product: Product) -> str:
    """All that a card shows: "3 red mugs, Kavo, $24.95, 4 stars, SALE"."""
    parts = [f"{product.count} {product.colour} {product.noun}"]
    if product.name is not None:
        parts.append(product.name)
    parts.append(product.price)
    if product.rating is not None:
        parts.append(f"{product.rating} stars")
    if product.badge is not None:
        parts.append(product.badge)
    return ", ".join(parts)


def attributes(product: Product) -> str:
    """The attributes as a JSON object on one line."""
    values = {
        "product": product.kind,
        "colour": product.colour,
        "count": product.count,
        "name": product.name,
        "price": product.price,
        "stars": product.rating,
        "badge": product.badge,
    }
    return json.dumps({key: value for key, value in values.items() if value is not None})


def _seen(random: Random, product: Product) -> list[Choice]:
    task = "image_understanding"
    seen = [
        choice(random, task, ASK_COLOUR, product.colour, COLOURS),
        choice(random, task, ASK_KIND, product.kind, KINDS),
        choice(random, task, ASK_COUNT, str(product.count), map(str, range(1, MAX_COUNT + 1))),
    ]
    if product.rating is not None:
        seen.append(choice(random, task, ASK_RATING, str(product.rating), map(str, range(1, MAX_RATING + 1))))
    return seen


def _read(random: Random, product: Product, split: Split) -> list[Choice]:
    near = random.random() < 0.4
    pool = window(random, prices(split), product.price_cents) if near else prices(split)
    read = [choice(random, "ocr", ASK_PRICE, product.price, map(format_price, pool))]
    if product.name is not None:
        read.append(choice(random, "ocr", ASK_NAME, product.name, names(split)))
    return read


def _understood(random: Random, product: Product, split: Split) -> list[Choice]:
    task = "product_understanding"
    colours = (product.colour, another(random, list(COLOURS), product.colour))
    kinds = (product.kind, another(random, KINDS, product.kind))
    values = (product.price, format_price(another(random, prices(split), product.price_cents)))
    understood = [
        grid_choice(task, random.choice(ASK_FIT), "{0} {1}", colours, kinds),
        grid_choice(task, random.choice(ASK_FIT), "{0} for {1}", kinds, values),
    ]
    if product.name is not None and product.rating is not None:
        titles = (product.name, another(random, names(split), product.name))
        stars = (str(product.rating), str(another(random, range(1, MAX_RATING + 1), product.rating)))
        understood.append(grid_choice(task, random.choice(ASK_FIT), "{0}, {1} stars", titles, stars))
    if product.badge is not None:
        understood.append(choice(random, task, ASK_BADGE, product.badge, BADGES))
    return understood


def _opens(random: Random, product: Product) -> list[Open]:
    opens = [
        Open("colour", random.choice(ASK_COLOUR), product.colour),
        Open("kind", random.choice(ASK_KIND), product.kind),
        Open("count", random.choice(ASK_COUNT), str(product.count)),
        Open("describe", random.choice(ASK_DESCRIBE), describe(product)),
        Open("read_price", random.choice(ASK_PRICE), product.price),
        Open("attributes", random.choice(ASK_ATTRIBUTES), attributes(product)),
    ]
    if product.name is not None:
        opens.append(Open("read_name", random.choice(ASK_NAME), product.name))
    if product.rating is not None:
        opens.append(Open("rating", random.choice(ASK_RATING), str(product.rating)))
    if product.badge is not None:
        opens.append(Open("badge", random.choice(ASK_BADGE), product.badge))
    return opens


def _matching(random: Random, product: Product) -> list[Open]:
    """Whether the picture is as the question says: words must be understood as well as said."""
    opens = []
    for question, pool, value in (
        ("Is it {0}?", list(COLOURS), product.colour),
        ("Is it a {0}?", KINDS, product.kind),
        ("Are there {0}?", [str(count) for count in range(1, MAX_COUNT + 1)], str(product.count)),
    ):
        opens += matching(random, question, pool, value)
    return opens
