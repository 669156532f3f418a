"""`valley2-edge chat`: questions about pictures, one or a conversation of them."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from valley2_edge.chosen_bundle import resolve_bundle
from valley2_edge.cli.bundle_argument import BundleOption
from valley2_edge.cli.conversation_file import check_target, is_conversation
from valley2_edge.cli.flags import with_flags
from valley2_edge.cli.help_page import examples
from valley2_edge.cli.media import Media, mentioned_files, path_of, split_words
from valley2_edge.cli.option_groups import FLAGS
from valley2_edge.cli.terminal import error_console, print_line
from valley2_edge.errors import InputError
from valley2_edge.option_checks import LARGEST_UINT32, check_whole
from valley2_edge.options import DEFAULT_FRAMES, LoadOptions, SamplingOptions, SessionOptions, picked
from valley2_edge.text_limits import check_text

if TYPE_CHECKING:
    from rich.console import Console

    from valley2_edge.runtime.model import Valley2

EXAMPLES = examples(
    'valley2-edge chat --bundle nano photo.jpg "What is this?"',
    'valley2-edge chat before.jpg after.jpg "What has changed?"',
    'valley2-edge chat clip.mp4 "What happens?" --frames 16',
    "valley2-edge chat photo.jpg --save talk.v2e",
    "valley2-edge chat --resume talk.v2e",
)


@with_flags(FLAGS)
def chat(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILES]... [QUESTION]",
            help="Pictures or one video, then the question in quotes. Without a question a conversation begins. A lone "
            "- stands for what stdin holds: a picture, or the question.",
            show_default=False,
        ),
    ] = None,
    bundle: BundleOption = None,
    video: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="A video by its name, whatever it ends with. An animated GIF, WebP or PNG moves only here.",
        ),
    ] = None,
    frames: Annotated[int, typer.Option(help="Most frames to take of a video.")] = DEFAULT_FRAMES,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the conversation to a file when it ends.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Go on with a saved conversation, with the session options that it had."),
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Show what each answer cost, as a table on stderr.")] = False,
    *,
    load: LoadOptions,
    session: SessionOptions,
    sampling: SamplingOptions,
) -> None:
    """Chat about pictures or a video; the answer goes to stdout, all else to stderr."""
    media, question = split_words(words or [])
    media = media.joined(Media(video=None if video is None else path_of(str(video))))
    media.check(session.max_picture_pixels)
    if question is None and sys.stdin is None:
        raise InputError("stdin is closed, so there is no question: write it as the last word")
    for text, what in ((question, "The question"), (session.system, "The system prompt")):
        if text is not None:
            check_text(text, what)
    _check_options(load, session, frames)
    _check_files(context, save, resume)
    directory, messages = resolve_bundle(bundle), error_console()
    from valley2_edge.cli.chatter import Chatter
    from valley2_edge.cli.conversation import Conversation

    with _load(directory, load, messages) as model:
        chatter = Chatter(model, session, sampling, messages, frames, stats, resume)
        chatter.wanted_provider = load.providers[0] if load.providers else None
        if question is None:
            Conversation(chatter, messages, media, session.max_picture_pixels).run()
        else:
            for name in mentioned_files(question):
                print_line(messages, f"valley2-edge: note: the model does not see {name}: name it before the question")
            chatter.ask(question, media)
        if save is not None:
            chatter.save(save)


def _load(directory: Path, load: LoadOptions, messages: Console) -> Valley2:
    """Loads the model with its progress on stderr; where a GPU may compute, says what does."""
    from valley2_edge.cli.answer_view import ProgressLine
    from valley2_edge.cli.chatter import placement
    from valley2_edge.runtime.model import Valley2

    with contextlib.closing(ProgressLine(messages)) as line:
        model = Valley2.load(directory, load, on_progress=line)
    if load.device not in (None, "cpu"):
        print_line(messages, placement(model))
    return model


def _check_options(load: LoadOptions, session: SessionOptions, frames: int) -> None:
    """Refuses, before a bundle is looked for, what loading it or asking would refuse."""
    from valley2_edge.policy import Policy

    check_whole("frames", frames, 1, LARGEST_UINT32)
    picked(Policy, session)
    if load.providers is not None:
        from valley2_edge.runtime.onnx.providers import choose_providers

        try:
            choose_providers(load.providers)
        except InputError as error:
            raise InputError(f"--provider: {error}") from error


def _check_files(context: typer.Context, save: Path | None, resume: Path | None) -> None:
    """Refuses mistakes that would otherwise show only when the work is done."""
    if save is not None:
        check_target(save, f"--save {save}")
    if resume is None:
        return
    if not resume.is_file():
        raise InputError(f"there is no saved conversation at {resume}")
    if not is_conversation(resume):
        raise InputError(f"{resume} is no saved conversation")
    for option in fields(SessionOptions):
        source = context.get_parameter_source(option.name)
        if source is not None and source.name == "COMMANDLINE":
            flag = option.name.replace("_", "-")
            raise InputError(f"--{flag} is the saved conversation's own: leave it out with --resume")
