from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from valley2_edge.answer import parse_answer
from valley2_edge.eval.questions.benchmark import benchmark_questions, ocr_questions
from valley2_edge.eval.questions.card import draw_card, random_style
from valley2_edge.eval.questions.clip import FRAMES
from valley2_edge.eval.questions.dialogue import SCENES, thinking_turn, training_dialogue
from valley2_edge.eval.questions.product import format_price, names, prices, random_product
from valley2_edge.eval.questions.question import LETTERS, TASKS, Question
from valley2_edge.eval.questions.scene import Scene
from valley2_edge.eval.questions.several import ATTRIBUTES, ORDINALS
from valley2_edge.eval.questions.single import FORMS, attributes, describe

VIDEO_TASKS = {
    "global_video_understanding",
    "procedure_understanding",
    "action_localisation",
    "video_content_retrieval",
}


def scenes(kind: str, count: int = 40) -> list[Scene]:
    return [SCENES[kind](Random(f"{kind} {index}"), "training") for index in range(count)]


def pixels(question: Question) -> list[bytes]:
    return [picture.tobytes() for picture in (question.images or question.video)]


def test_the_same_seed_gives_the_same_questions_and_pictures() -> None:
    first, second = benchmark_questions(3, seed=7), benchmark_questions(3, seed=7)
    assert [q.prompt() for q in first] == [q.prompt() for q in second]
    assert [pixels(q) for q in first] == [pixels(q) for q in second]


def test_another_seed_gives_other_questions() -> None:
    first, second = benchmark_questions(3, seed=0), benchmark_questions(3, seed=1)
    assert not {bytes(b"".join(pixels(q))) for q in first} & {bytes(b"".join(pixels(q))) for q in second}


def test_every_task_has_its_questions() -> None:
    questions = benchmark_questions(2)
    assert Counter(q.task for q in questions) == dict.fromkeys(TASKS, 2)
    assert len({q.identifier for q in questions}) == len(questions)
    for question in questions:
        assert len(set(question.options)) == 4
        assert (question.task in VIDEO_TASKS) == (question.video is not None)
        if question.task in VIDEO_TASKS:
            assert len(question.video) == FRAMES


def test_no_name_and_no_price_is_in_both_halves() -> None:
    assert not set(names("training")) & set(names("test"))
    assert not set(prices("training")) & set(prices("test"))
    assert len(names("test")) >= 30 and len(prices("test")) >= 100


def test_training_text_never_holds_a_test_name_or_price() -> None:
    held_out = {*names("test"), *map(format_price, prices("test"))}
    for index in range(300):
        for asked, answer in training_dialogue(0, index, "broad").turns:
            words = set((asked + " " + answer).replace(",", " ").replace('"', " ").split())
            assert not words & held_out


def test_held_out_questions_use_held_out_names_and_prices_alone() -> None:
    trained = {*names("training"), *map(format_price, prices("training"))}
    for question in benchmark_questions(20):
        words = {word.strip(",") for option in question.options for word in option.split()}
        assert not words & trained
    assert not {question.answer for question in ocr_questions(40)} & trained


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_options_alone_do_not_tell_the_answer(task: str) -> None:
    """Two guessers that see no picture: the option most like the others, and the one most often right elsewhere."""
    count = 100
    questions = benchmark_questions(2 * count, seed=3, tasks=(task,))
    known, asked = questions[:count], questions[count:]
    record: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for question in known:
        for index, option in enumerate(question.options):
            record[question.question, option].append(index == question.answer)

    def likeness(question: Question, index: int) -> int:
        words = question.options[index].split()
        return sum(word in other.split() for other in question.options for word in words)

    def right_rate(question: Question, index: int) -> float:
        seen = record[question.question, question.options[index]]
        return (sum(seen) + 1) / (len(seen) + 4)

    for guess in (likeness, right_rate):
        hits = sum(max(range(4), key=lambda i, q=q, g=guess: g(q, i)) == q.answer for q in asked)
        assert hits / count < 0.25 + 4 * (0.25 * 0.75 / count) ** 0.5, guess.__name__


@pytest.mark.parametrize("form", FORMS)
def test_a_card_of_each_form_shows_its_price(form: str) -> None:
    random = Random(form)
    product = random_product(random, "training", full=form != "tiny")
    style = random_style(random, form)
    card = draw_card(product, style)
    assert card.size == (style.width, style.height) and card.mode == "RGB"
    other = draw_card(replace(product, price_cents=product.price_cents + 111), style)
    assert np.any(np.asarray(card) != np.asarray(other))


def test_pictures_are_wide_tall_tiny_and_large() -> None:
    sizes = [scene.pictures[0].size for scene in scenes("single", 120)]
    assert max(w / h for w, h in sizes) > 2 and min(w / h for w, h in sizes) < 0.65
    assert min(w for w, _ in sizes) < 100 and max(w for w, _ in sizes) > 300


def test_a_pair_differs_in_the_attribute_that_is_asked_for() -> None:
    for scene in scenes("pair"):
        first, second = (np.asarray(picture) for picture in scene.pictures)
        assert first.shape == second.shape and np.any(first != second)
        assert scene.choices[0].right.removeprefix("the ") in ATTRIBUTES
        assert scene.caption.startswith(scene.choices[0].right)


@pytest.mark.slow
def test_a_triple_singles_out_one_picture_or_none() -> None:
    rights = Counter(scene.choices[0].right for scene in scenes("triple", 200))
    assert set(rights) == {"the first", "the second", "the third", "none of them"}
    for scene in scenes("triple"):
        sought = scene.choices[0].question.removeprefix("Which picture shows the ").removesuffix("?")
        listed = scene.caption.split(", ")
        place = ("the first", "the second", "the third", "none of them").index(scene.choices[0].right)
        assert [index for index, item in enumerate(listed) if item == sought] == [place][: place < 3]


def test_what_is_in_one_of_three_pictures_is_told_from_what_is_in_the_others() -> None:
    words = {"colour": 0, "product": 1}
    asked = 0
    for scene in scenes("triple", 60):
        shown = [item.split() for item in scene.caption.split(", ")]
        for one in scene.choices[3:]:
            assert len({one.right, *one.wrong}) == 4
            place = next(index for index, ordinal in enumerate(ORDINALS) if ordinal in one.question)
            word = words["colour" if "colour" in one.question else "product"]
            if "price" in one.question or "name" in one.question:
                continue
            values = [item[word] for item in shown]
            assert one.right == values[place]
            assert set(values) <= {one.right, *one.wrong}
            asked += 1
    assert asked > 20


def test_open_questions_about_three_pictures_agree_with_what_they_show() -> None:
    asked = Counter()
    for scene in scenes("triple"):
        shown = next(opened.answer for opened in scene.opens if opened.kind == "list").split(", ")
        for opened in scene.opens:
            *_, value = opened.question.rstrip("?").split()
            if opened.kind == "match":
                place = next(index for index, ordinal in enumerate(ORDINALS) if ordinal in opened.question)
                assert opened.answer == ("yes" if value in shown[place].split() else "no")
                asked[opened.answer] += 1
            elif opened.question.startswith(("Which picture shows something", "Which picture shows a ")):
                assert [value in words.split() for words in shown] == [opened.answer == name for name in ORDINALS]
                asked["which"] += 1
    assert asked["yes"] == asked["no"] > 0
    assert asked["which"] > 0


def test_whether_an_attribute_is_the_same_is_asked_once_for_the_one_that_differs_and_once_for_another() -> None:
    for scene in scenes("pair"):
        differs = scene.choices[0].right.removeprefix("the ")
        same = {opened.question: opened.answer for opened in scene.opens if opened.kind == "same"}
        assert len(same) == 2
        assert same[f"Is the {differs} the same?"] == "no"
        assert Counter(same.values()) == {"yes": 1, "no": 1}


def test_twins_are_asked_for_every_attribute_and_say_what_differs() -> None:
    for scene in scenes("twin", 20):
        differences = next(opened.answer for opened in scene.opens if opened.kind == "difference").split(", ")
        said = {opened.question: opened.answer for opened in scene.opens if opened.kind == "same"}
        expected = {name: "no" if f"the {name}" in differences else "yes" for name in ATTRIBUTES}
        assert said == {f"Is the {name} the same?": answer for name, answer in expected.items()}


def test_every_colour_and_kind_of_a_trio_tells_its_card() -> None:
    for scene in scenes("trio", 20):
        told = {one.question: one.answer for one in scene.opens if one.kind in ("which_colour", "which_product")}
        for shown, ordinal in zip(scene.caption.split(", "), ORDINALS, strict=True):
            colour, kind = shown.split()
            assert told[f"Which picture shows something {colour}?"] == ordinal
            assert told[f"Which picture shows a {kind}?"] == ordinal


def test_a_dialogue_asks_no_question_twice_in_the_same_words() -> None:
    for index in (0, 100, 7000, 20_000, 50_000, 50_001, 50_002):
        turns = training_dialogue(3, index, "broad").turns
        assert len(set(turns)) == len(turns) > 0


def test_a_slide_show_has_one_of_the_four_products() -> None:
    for scene in scenes("show"):
        shown = set(scene.caption.split(", "))
        for asked in scene.choices:
            assert asked.right in shown and not shown & set(asked.wrong)


def test_steps_come_in_the_order_that_is_asked_for() -> None:
    for scene in scenes("steps"):
        steps = scene.caption.split(", ")
        first, last, after = scene.choices
        assert (first.right, last.right) == (steps[0], steps[-1])
        before = after.question.removeprefix("Which step comes right after ").removesuffix("?")
        assert steps[steps.index(before) + 1] == after.right and before not in after.wrong


def test_a_thinking_answer_ends_in_the_right_option() -> None:
    scene = scenes("single", 1)[0]
    asked, answer = thinking_turn(Random(1), scene, scene.choices[0])
    assert asked.endswith("\nPlease think step by step.")
    conclusion = parse_answer(answer).conclusion
    assert conclusion == scene.choices[0].right
    assert any(line.removeprefix(f"{letter}. ") == conclusion for line in asked.splitlines() for letter in LETTERS)


def test_attributes_are_json_that_says_what_the_card_shows() -> None:
    product = random_product(Random(5), "training")
    values = json.loads(attributes(product))
    assert values["price"] == product.price and values["name"] == product.name
    assert f"{product.count} {product.colour}" in describe(product)
