"""Finds the unrounded model's own greedy answers with few runs through its layers.

A run of a model that does not fit in memory costs a pass over its file, so it cannot answer token by token. The rounded
model's answer is a draft: one run gives the reference's choice behind every token of every draft at once; up to the
first token that differs the draft is the reference's own answer. The corrected token is put in its place, the draft
goes on from there, and after as many runs as the worst answer has differences all answers are exact (the verification
of speculative decoding, arXiv 2211.17192, without sampling).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Tokens = tuple[int, ...]
Choices = Callable[[Sequence[tuple[int, Tokens]]], list[Tokens]]
"""Given pairs of a question's number and a draft of its answer, returns for each draft the token that the reference
chooses at every place of the draft and behind it."""
Draft = Callable[[int, Tokens], Tokens]
"""Given a question's number and the beginning of an answer, returns the whole answer with its stop token."""


@dataclass(frozen=True)
class GreedyAnswers:
    """The reference's answers."""

    answers: list[Tokens]
    """The answer to each question, with the stop token where there is one."""
    runs: int
    """Number of runs of the reference."""
    inexact: int
    """Number of answers that were not verified to their end when the runs were used up, and are drafts."""


def greedy_answers(
    drafts: Sequence[Tokens],
    choose: Choices,
    continue_draft: Draft,
    stops: Sequence[int],
    limits: Sequence[int],
    most_runs: int,
) -> GreedyAnswers:
    """Finds the reference's greedy answers.

    Args:
        drafts: A draft of the answer to each question.
        choose: Runs the reference over all questions that are not settled.
        continue_draft: Continues an answer with the model that drafts.
        stops: Tokens that end an answer.
        limits: Largest number of tokens of each answer.
        most_runs: Largest number of runs of the reference.
    """
    answers = list(drafts)
    verified = [0] * len(answers)
    """Number of tokens at the beginning of each answer that are the reference's own."""
    open_questions = [index for index in range(len(answers)) if limits[index] > 0]
    runs = 0
    while open_questions and runs < most_runs:
        chosen = choose([(index, answers[index]) for index in open_questions])
        runs += 1
        still_open = []
        for index, tokens in zip(open_questions, chosen, strict=True):
            answer, limit = answers[index], limits[index]
            place = verified[index]
            while place < min(len(answer), limit) and answer[place] == tokens[place]:
                place += 1
            if place >= limit or (place and answer[place - 1] in stops):
                answers[index] = answer[:place]
                continue
            # The reference's own token stands where the draft differs, or ends too early.
            corrected = (*answer[:place], tokens[place])
            verified[index] = len(corrected)
            if tokens[place] in stops or len(corrected) >= limit:
                answers[index] = corrected
                continue
            answers[index] = continue_draft(index, corrected)[:limit]
            still_open.append(index)
        open_questions = still_open
    return GreedyAnswers(answers, runs, len(open_questions))
