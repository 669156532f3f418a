"""Ecom-VQA in small: held-out questions of the nine tasks, made from a seed.

Names, prices and seeds are those of the test half, which training never sees (product.split_of).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from valley2_edge.eval.questions.dialogue import SCENES
from valley2_edge.eval.questions.question import TASKS, OpenQuestion, Question
from valley2_edge.eval.questions.scene import Scene

_SCENE_OF_TASK = {
    "image_understanding": "single",
    "ocr": "single",
    "difference_spotting": "pair",
    "multi_image_understanding": "triple",
    "product_understanding": "single",
    "global_video_understanding": "motion",
    "procedure_understanding": "steps",
    "action_localisation": "badge",
    "video_content_retrieval": "show",
}
_READING = ("read_price", "read_name")


def benchmark_questions(count_per_task: int, seed: int = 0, tasks: Sequence[str] = TASKS) -> list[Question]:
    """Makes the questions of the tasks, each about pictures of its own.

    Args:
        count_per_task: Number of questions of each task.
        seed: Another seed gives other questions.
        tasks: Names of tasks, out of `TASKS`.
    """
    return [_question(task, index, seed) for task in tasks for index in range(count_per_task)]


def ocr_questions(count: int, seed: int = 0) -> list[OpenQuestion]:
    """Makes questions that are answered by reading a price or a name from a card.

    Args:
        count: Number of questions.
        seed: Another seed gives other questions.
    """
    questions = []
    for index in range(count):
        random = Random(f"test reading {seed} {index}")
        scene = SCENES["single"](random, "test")
        asked = random.choice([question for question in scene.opens if question.kind in _READING])
        questions.append(OpenQuestion(f"reading-{index:04d}", asked.kind, asked.question, asked.answer, scene.pictures))
    return questions


def _question(task: str, index: int, seed: int) -> Question:
    random = Random(f"test {task} {seed} {index}")
    scene: Scene = SCENES[_SCENE_OF_TASK[task]](random, "test")
    asked = random.choice([choice for choice in scene.choices if choice.task == task])
    options, answer = asked.shuffled(random)
    return Question(
        identifier=f"{task}-{index:04d}",
        task=task,
        question=asked.question,
        options=options,
        answer=answer,
        images=() if scene.video else scene.pictures,
        video=scene.pictures if scene.video else None,
    )
