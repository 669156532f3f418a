"""Questions about clips: global understanding, procedures, action localisation and content retrieval."""

from __future__ import annotations

from random import Random

from valley2_edge.eval.questions.card import BADGE_COLOURS
from valley2_edge.eval.questions.clip import MOTIONS, STEPS, badge_frames, motion_frames, show_frames, step_frames
from valley2_edge.eval.questions.product import BADGES, COLOURS, KINDS
from valley2_edge.eval.questions.scene import Choice, Open, Scene, another, choice, grid_choice

QUARTERS = ("in the first quarter", "in the second quarter", "in the third quarter", "in the last quarter")
_ASK_MOTION = ("What happens in the clip?", "What does the product do?")
_ASK_APPEARS = ("Which product appears in the clip?", "Which one can be seen in the clip?")
_STEPS_SHOWN = 4


def motion_scene(random: Random) -> Scene:
    """A product that moves or changes its size."""
    kind, colour, motion = random.choice(KINDS), random.choice(list(COLOURS)), random.choice(MOTIONS)
    frames = motion_frames(random, kind, colour, motion)
    caption = f"the {colour} {kind} {motion}"
    task = "global_video_understanding"
    choices = [
        choice(random, task, (question,), f"it {motion}", [f"it {m}" for m in MOTIONS]) for question in _ASK_MOTION
    ]
    opens = (Open("clip", "Describe the clip.", caption), Open("motion", random.choice(_ASK_MOTION), f"it {motion}"))
    return Scene(frames, True, caption, tuple(choices), opens)


def show_scene(random: Random) -> Scene:
    """A slide show of two or four products."""
    count = random.choice((2, 2, 4))
    products = [(random.choice(KINDS), random.choice(list(COLOURS))) for _ in range(count)]
    frames = show_frames(random, products)
    choices = tuple(_appears(random, products, sought) for sought in random.sample(products, 2))
    caption = ", ".join(f"{colour} {kind}" for kind, colour in products)
    opens = (
        Open("clip", "List the products in the clip.", caption),
        Open("clip_first", "What comes first in the clip?", f"{products[0][1]} {products[0][0]}"),
        Open("clip_last", "What comes last in the clip?", f"{products[-1][1]} {products[-1][0]}"),
    )
    return Scene(frames, True, caption, choices, opens)


def badge_scene(random: Random) -> Scene:
    """A product that carries a badge for a quarter of the clip."""
    kind, colour = random.choice(KINDS), random.choice(list(COLOURS))
    badge, quarter = random.choice(BADGES), random.randrange(len(QUARTERS))
    frames = badge_frames(random, kind, colour, badge, BADGE_COLOURS[badge], quarter)
    right, wrong = QUARTERS[quarter], [other for other in QUARTERS if other != QUARTERS[quarter]]
    questions = ("When does the badge appear?", f"When is the {badge} badge shown?")
    choices = tuple(
        Choice("action_localisation", question, right, (wrong[0], wrong[1], wrong[2])) for question in questions
    )
    caption = f"the {badge} badge appears {right}"
    opens = (
        Open("clip", "What happens with the badge?", caption),
        Open("moment", random.choice(questions), right),
        Open("badge", "Which badge appears?", badge),
    )
    return Scene(frames, True, caption, choices, opens)


def step_scene(random: Random) -> Scene:
    """Four steps of packing a parcel, in random order: what comes when is in the frames alone."""
    steps = random.sample(STEPS, _STEPS_SHOWN)
    frames = step_frames(random, steps)
    place = random.randrange(_STEPS_SHOWN - 1)
    before = steps[place]
    task = "procedure_understanding"
    others = [step for step in STEPS if step != before]
    choices = (
        choice(random, task, ("Which step comes first?",), steps[0], STEPS),
        choice(random, task, ("Which step comes last?",), steps[-1], STEPS),
        choice(random, task, (f"Which step comes right after {before}?",), steps[place + 1], others),
    )
    caption = ", ".join(steps)
    opens = (
        Open("clip", "List the steps of the clip.", caption),
        Open("step", f"What comes right after {before}?", steps[place + 1]),
    )
    return Scene(frames, True, caption, choices, opens)


def _appears(random: Random, products: list[tuple[str, str]], sought: tuple[str, str]) -> Choice:
    """Colour and kind of a product of the clip against the same two crossed with others that are not in it."""
    kind, colour = sought
    while True:
        kinds = (kind, another(random, KINDS, kind))
        colours = (colour, another(random, list(COLOURS), colour))
        crossed = {(k, c) for k in kinds for c in colours} - {sought}
        if not crossed & set(products):
            question = random.choice(_ASK_APPEARS)
            return grid_choice("video_content_retrieval", question, "{0} {1}", colours, kinds)
