"""The options of `valley2-edge chat`; their names are those of `Valley2.load`, `Valley2.session` and `Session.ask`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from valley2_edge.options import EaglePreset, PolicyName

_MODEL = "Model"
_PICTURES = "Pictures"
_ANSWER = "Answer"

BundleOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Without it $VALLEY2_BUNDLE, then the bundle exported last.", rich_help_panel=_MODEL
    ),
]
Threads = Annotated[
    int, typer.Option(help="Of all engines; 0: as many as the process may run on.", rich_help_panel=_MODEL)
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"] | None,
    typer.Option(
        help="Of the decoder. cuda: an NVIDIA GPU; auto: one if it is usable, else the CPU. When not given the CPU, or "
        "for a decoder exported with --decoder-engine onnx what --provider says.",
        rich_help_panel=_MODEL,
    ),
]
GpuMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Of the GPU at most, for example 6GiB; layers that do not fit stay on the CPU.",
        rich_help_panel=_MODEL,
    ),
]
Activations = Annotated[
    Literal["int8", "int16"],
    typer.Option(help="Of quantised matrices; int16 is finer at twice the arithmetic.", rich_help_panel=_MODEL),
]
VisionEngineOption = Annotated[
    Literal["auto", "native", "onnx", "tensorrt"],
    typer.Option(
        help="Of the vision half: what the bundle has, or insist on the core's own or on ONNX Runtime. tensorrt: on "
        "an NVIDIA GPU, with engines that are built once; where it cannot, ONNX Runtime.",
        rich_help_panel=_MODEL,
    ),
]
Providers = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="Execution provider of ONNX Runtime, for example CUDAExecutionProvider; once for each, the best first. "
        "For the vision engines, and a decoder exported with --decoder-engine onnx.",
        rich_help_panel=_MODEL,
    ),
]
ContextLength = Annotated[
    int, typer.Option(help="Positions; 0: as many as the model was trained for.", rich_help_panel=_MODEL)
]
KvPrecisionName = Literal["auto", "fp32", "fp16", "int8"]
KvPrecision = Annotated[
    KvPrecisionName,
    typer.Option(
        help="Of the KV cache; int8 is half of fp16. auto: fp32 for a decoder in fp32, else fp16.",
        rich_help_panel=_MODEL,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Of the process at most, for example 6GiB; caps, context and KV precision are chosen to keep it.",
        rich_help_panel=_MODEL,
    ),
]
VisionCache = Annotated[
    str,
    typer.Option(
        metavar="SIZE", help="Keep embeddings of earlier pictures up to this; 0: none.", rich_help_panel=_MODEL
    ),
]
PrefixCache = Annotated[
    str,
    typer.Option(
        metavar="SIZE", help="Keep KV pages of earlier conversations up to this; 0: none.", rich_help_panel=_MODEL
    ),
]
PrefillChunk = Annotated[
    int,
    typer.Option(help="Positions computed together; 0: 256. Does not change the answer.", rich_help_panel=_MODEL),
]

PolicyOption = Annotated[
    PolicyName,
    typer.Option(help="hub: the released processor; repo: the repository's chat class.", rich_help_panel=_PICTURES),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Reproduce the reference's surprises, too.", rich_help_panel=_PICTURES)
]
Eagle = Annotated[bool, typer.Option("--eagle/--no-eagle", help="Run the Eagle branch.", rich_help_panel=_PICTURES)]
Tiles = Annotated[bool, typer.Option("--tiles/--no-tiles", help="Cut pictures into tiles.", rich_help_panel=_PICTURES)]
EaglePresetOption = Annotated[
    EaglePreset,
    typer.Option(
        help="Cap of Eagle tokens: 256, 729 (196 for each of several pictures or frames), 1280 or 16384.",
        rich_help_panel=_PICTURES,
    ),
]
EagleMaxTokens = Annotated[
    int | None, typer.Option(help="Another cap of Eagle tokens for each picture.", rich_help_panel=_PICTURES)
]
EagleMinTokens = Annotated[
    int | None,
    typer.Option(
        help="Least Eagle tokens of a picture, 4 when not given; smaller ones are enlarged.", rich_help_panel=_PICTURES
    ),
]
MaxPicturePixels = Annotated[
    int,
    typer.Option(
        metavar="COUNT",
        help="Width times height of a picture at most; larger ones are refused before they are decoded.",
        rich_help_panel=_PICTURES,
    ),
]
Video = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="A video by its name, whatever it ends with; an animated GIF, WebP or PNG moves only here.",
        rich_help_panel=_PICTURES,
    ),
]
Frames = Annotated[int, typer.Option(help="Frames to take of a video at most.", rich_help_panel=_PICTURES)]

System = Annotated[str | None, typer.Option(help="System prompt.", rich_help_panel=_ANSWER)]
Think = Annotated[bool, typer.Option("--think", help="Ask for a four-step answer.", rich_help_panel=_ANSWER)]
MaxNewTokens = Annotated[int, typer.Option(help="Tokens of an answer at most.", rich_help_panel=_ANSWER)]
Temperature = Annotated[float, typer.Option(help="0: greedy.", rich_help_panel=_ANSWER)]
TopK = Annotated[int, typer.Option(help="Most likely tokens to choose from; 0: all.", rich_help_panel=_ANSWER)]
TopP = Annotated[float, typer.Option(help="Share of the probability to choose from; 1: all.", rich_help_panel=_ANSWER)]
MinP = Annotated[
    float,
    typer.Option(help="Least probability relative to the most likely token; 0: any.", rich_help_panel=_ANSWER),
]
RepetitionPenalty = Annotated[
    float, typer.Option(help="Above 1 disfavours tokens that occurred; 1: off.", rich_help_panel=_ANSWER)
]
Seed = Annotated[
    int | None, typer.Option(help="Of the choice above temperature 0; another each time.", rich_help_panel=_ANSWER)
]
Speculation = Annotated[
    Literal["auto", "off", "always"],
    typer.Option(
        help="Draft tokens from earlier text and check several at once; auto: where it pays. Changes no answer.",
        rich_help_panel=_ANSWER,
    ),
]
Save = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the conversation to a file when it ends.", rich_help_panel=_ANSWER),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Go on with a saved conversation, with its own session options.", rich_help_panel=_ANSWER
    ),
]
Stats = Annotated[bool, typer.Option("--stats", help="End with a table on stderr.", rich_help_panel=_ANSWER)]
