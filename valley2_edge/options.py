"""The options of loading a model, of a session and of sampling: each default, range and meaning is stated here, once.

The command line makes its flags from these classes, the Python API takes them, and the structs of `valley2.h` have
fields of the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

from valley2_edge.backends import BUILT_IN, registered_backends
from valley2_edge.errors import InputError, OptionError
from valley2_edge.option_checks import (
    LARGEST_FACTOR,
    LARGEST_UINT32,
    LARGEST_UINT64,
    check_choice,
    check_real,
    check_unsigned,
    check_whole,
)
from valley2_edge.picture_limits import DEFAULT_MAX_PICTURE_PIXELS, MAX_PICTURE_PIXELS

Isa = Literal["auto", "portable", "avx2", "avx512-vnni", "neon", "avx-vnni"]
Activations = Literal["auto", "int8", "int16"]
Device = Literal["auto", "cpu", "cuda"]
VisionEngineName = Literal["auto", "native", "onnx", "tensorrt"]
KvPrecision = Literal["auto", "fp32", "fp16", "int8"]
PolicyName = Literal["hub", "repo"]
EaglePreset = Literal["fast", "balanced", "document", "full"]
Speculation = Literal["auto", "off", "always"]

EAGLE_MAX_TOKENS = 16384
"""The first of the Eagle branch's two resizes never leaves more tokens, whatever the caller's cap."""
DEFAULT_FRAMES = 8
"""Frames that are taken of a video unless the caller says how many."""

Options = TypeVar("Options", bound="_Checked")
Value = TypeVar("Value")
Check = Callable[[str, Any], None]
"""Called with an option's name and its value; raises OptionError when the value is not acceptable."""


def _whole(smallest: int, largest: int) -> Check:
    return lambda name, value: check_whole(name, value, smallest, largest)


def _real(smallest: float, largest: float) -> Check:
    return lambda name, value: check_real(name, value, smallest, largest)


def _unsigned(largest: int = LARGEST_UINT32) -> Check:
    return lambda name, value: check_unsigned(name, value, largest)


def _choice(literal: Any) -> Check:
    return lambda name, value: check_choice(name, value, literal.__args__)


def _or(unset: Any, check: Check) -> Check:
    """The check of an option that may also have a value which means that nothing was chosen."""
    return lambda name, value: None if value == unset else check(name, value)


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise OptionError(name, f"must be True or False, not {value!r}.")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise OptionError(name, f"must be text, not {value!r}.")


def engine_names() -> tuple[str, ...]:
    """What `vision_engine` may be: the built-in engines, and those that this process has registered."""
    return *BUILT_IN, *registered_backends()


def _vision_engine(name: str, value: Any) -> None:
    check_choice(name, value, engine_names())


def _size(name: str, value: Any) -> None:
    """An amount of memory, as a number of bytes or as a person writes it."""
    size_bytes(value)


def _policy(name: str, value: Any) -> None:
    if value not in PolicyName.__args__:  # type: ignore[attr-defined]
        raise OptionError(name, f'must be "hub" or "repo", not {value!r}.')


def _preset(name: str, value: Any) -> None:
    presets: tuple[str, ...] = EaglePreset.__args__  # type: ignore[attr-defined]
    if value not in presets:
        raise OptionError(name, f"must be one of {', '.join(presets)}, not {value!r}.")


def _providers(name: str, value: Any) -> None:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise OptionError(name, f"must be a list of names, not {value!r}.")


def size_bytes(size: str | int | None) -> int:
    """The number of bytes of an amount of memory such as "6GiB"; None and the number 0 choose nothing and are 0.

    Raises:
        InputError: It is no amount of memory.
    """
    from valley2_edge.byte_count import parse_bytes

    return parse_bytes(str(size)) if size not in (None, 0) else 0


def _option(default: Value, meaning: str, check: Check) -> Value:
    """A field of an options class.

    Args:
        default: The value that holds unless a caller chooses another one.
        meaning: What the option does, in sentences that stand alone.
        check: Refuses what is not acceptable.
    """
    made: Value = field(default=default, metadata={"meaning": meaning, "check": check})
    return made


def _documented(options: type[Options]) -> type[Options]:
    """Ends the docstring of an options class with the meaning of each field, for `help`."""
    lines = [f"    {option.name}: {option.metadata['meaning']}" for option in fields(options)]
    options.__doc__ = "\n".join([(options.__doc__ or "").rstrip(), "", "Attributes:", *lines])
    return options


@dataclass(frozen=True)
class _Checked:
    """An options class, whose fields are checked when it is made."""

    def __post_init__(self) -> None:
        for option in fields(self):
            if "check" in option.metadata:
                option.metadata["check"](option.name, getattr(self, option.name))


@_documented
@dataclass(frozen=True)
class LoadOptions(_Checked):
    """What `Valley2.load` can be told about where and with what a model computes.

    Raises:
        InputError: A value is not acceptable.
    """

    threads: int = _option(
        0,
        "Number of threads for the decoder and the vision engines together. 0 uses as many as the process may run on.",
        _unsigned(),
    )
    isa: str = _option(
        "auto",
        "Instruction set of the native kernels: auto, portable, avx2, avx-vnni, avx512-vnni or neon. auto is the best "
        "that the machine has.",
        _choice(Isa),
    )
    activations: str = _option(
        "auto",
        "Precision of the activations that meet quantised matrices on the CPU: int8, or int16 for about 100 times "
        "finer values at twice the arithmetic. auto is int8.",
        _choice(Activations),
    )
    device: str | None = _option(
        None,
        "Where the decoder runs: cpu, cuda, or auto for an NVIDIA GPU if there is a usable one with room for a layer. "
        "By default it runs on the CPU, and a decoder for ONNX Runtime where the providers say.",
        _or(None, _choice(Device)),
    )
    gpu_layers: int = _option(
        0,
        "Number of the native decoder's first layers that run on the GPU. 0 takes as many as there is memory for.",
        _unsigned(),
    )
    gpu_memory: str | int | None = _option(
        None,
        "Most memory of the GPU to use, such as 6GiB or a number of bytes; layers that do not fit stay on the CPU. By "
        "default all that is free. With the vision engines on the GPU as well, it decides what stays there.",
        _size,
    )
    providers: Sequence[str] | None = _option(
        None,
        "Execution providers of ONNX Runtime, the preferred one first, for vision engines and decoders that run in "
        "it. By default in the order that ONNX Runtime offers on this machine.",
        _or(None, _providers),
    )
    vision_engine: str = _option(
        "auto",
        "What computes the vision half: native for the core's own towers, onnx for ONNX Runtime, or tensorrt for "
        "engines that are built once for an NVIDIA GPU; what these cannot compute, the core's towers do. auto is "
        "native.",
        _vision_engine,
    )
    keep_vision: bool = _option(
        False,
        "Keep the vision engines in memory between questions instead of loading them for each question with pictures.",
        _flag,
    )
    vision_cache_bytes: int = _option(
        256 << 20,
        "Most bytes of picture embeddings to keep for later questions about the same pictures, in any session; those "
        "used least recently go first. 0 keeps none.",
        _unsigned(LARGEST_UINT64),
    )
    prefix_cache_bytes: int = _option(
        256 << 20,
        "Most bytes of KV pages to keep, once no session holds them, for later prompts that begin in the same way. "
        "With 0 sessions still share what one of them holds.",
        _unsigned(LARGEST_UINT64),
    )
    memory: str | int | None = _option(
        None,
        "Most memory of the process to use, such as 6GiB or a number of bytes. Each session then gives up as little "
        "as possible of what it is asked for, and a question that would need more is refused. By default there is no "
        "limit.",
        _size,
    )


@_documented
@dataclass(frozen=True)
class PictureOptions(_Checked):
    """The options of a session that decide what the model sees of a picture (docs/valley2.md, "Policies").

    Raises:
        InputError: A value is not acceptable.
    """

    policy: PolicyName = _option(
        "hub",
        "Which reference to follow: hub is the released processor, which tiles a lone picture; repo is the "
        "repository's chat class, which tiles all pictures.",
        _policy,
    )
    strict: bool = _option(False, "Reproduce the surprises of the reference as well (docs/differences.md).", _flag)
    eagle: bool = _option(True, "Run the Eagle branch of the vision half, where the checkpoint has one.", _flag)
    tiles: bool = _option(
        True, "Cut pictures into tiles where the policy says so; otherwise each is resized as a whole.", _flag
    )
    eagle_preset: EaglePreset = _option(
        "balanced",
        "Most Eagle tokens of a picture, by name: fast is 256, balanced 729 (196 for each of several pictures or "
        "frames), document 1280, full 16384.",
        _preset,
    )
    eagle_max_tokens: int | None = _option(
        None, "Most Eagle tokens of a picture, instead of the preset's.", _or(None, _whole(1, EAGLE_MAX_TOKENS))
    )
    eagle_min_tokens: int | None = _option(
        None,
        "Fewest Eagle tokens of a picture; smaller pictures are enlarged. By default 4, or a lower cap.",
        _or(None, _whole(1, EAGLE_MAX_TOKENS)),
    )
    max_picture_pixels: int = _option(
        DEFAULT_MAX_PICTURE_PIXELS,
        "Largest width times height of a picture or frame; larger ones are refused before they are decoded. 40,000,000 "
        "is a good choice for pictures from strangers.",
        _whole(1, MAX_PICTURE_PIXELS),
    )


@_documented
@dataclass(frozen=True)
class SessionOptions(PictureOptions):
    """What `Valley2.session` can be told about a conversation.

    Raises:
        InputError: A value is not acceptable.
    """

    system: str | None = _option(
        None, "System prompt. By default the policy's own; an empty text is an empty prompt.", _or(None, _text)
    )
    think: bool = _option(False, "Ask for an answer in four steps: summary, caption, reasoning, conclusion.", _flag)
    context_length: int = _option(
        0,
        "Most positions (tokens of text and pictures) of the conversation; memory grows with use. 0 allows as many as "
        "the model was trained for.",
        _unsigned(),
    )
    kv_precision: str = _option(
        "auto",
        "Precision of the KV cache: fp32, fp16 or int8, which takes half of fp16. auto is fp32 for a decoder in fp32, "
        "else fp16.",
        _choice(KvPrecision),
    )
    prefill_chunk: int = _option(
        0, "Positions of a prompt that are computed together. 0 is 256. It does not change the answer.", _unsigned()
    )


@_documented
@dataclass(frozen=True)
class SamplingOptions(_Checked):
    """How the tokens of one answer are chosen; the defaults are the reference's greedy decoding.

    Raises:
        InputError: A value is not acceptable.
    """

    max_new_tokens: int = _option(1024, "Most tokens of the answer.", _whole(1, LARGEST_UINT32))
    temperature: float = _option(
        0.0,
        "How freely tokens are drawn: 0 always takes the most likely token, higher values flatten the distribution.",
        _real(0, LARGEST_FACTOR),
    )
    top_k: int = _option(
        0, "Draw only from this many of the most likely tokens. 0 draws from all.", _whole(0, LARGEST_UINT32)
    )
    top_p: float = _option(
        1.0, "Draw only from the most likely tokens that together reach this probability. 0 or 1: off.", _real(0, 1)
    )
    min_p: float = _option(
        0.0,
        "Draw only from tokens that are at least this probable relative to the most likely one. 0 draws from all.",
        _real(0, 1),
    )
    repetition_penalty: float = _option(
        1.0,
        "Above 1 makes tokens less likely that occurred in the session before, in prompts or answers. 0 or 1: off.",
        _or(0, _real(1 / LARGEST_FACTOR, LARGEST_FACTOR)),
    )
    seed: int | None = _option(
        None,
        "Random seed for drawing tokens. By default every answer uses a new one, which its statistics tell.",
        _or(None, _whole(0, LARGEST_UINT64)),
    )
    speculation: str = _option(
        "auto",
        "Draft tokens from earlier text and check several in one step of the decoder: auto where it pays, off, or "
        "always for measurements. It does not change the answer.",
        _choice(Speculation),
    )


def option(options: type[_Checked], name: str) -> Field[Any]:
    """The field of an options class, with its `default` and its `metadata["meaning"]`.

    Raises:
        KeyError: The class has no such field.
    """
    return {field.name: field for field in fields(options)}[name]


def changed(options: Options, changes: Mapping[str, Any]) -> Options:
    """A copy of the options with some of them changed.

    Args:
        options: What holds where nothing is changed.
        changes: New values by the names of the fields.

    Raises:
        InputError: There is no option of that name, or a value is not acceptable.
    """
    check_names(changes, type(options))
    return replace(options, **changes) if changes else options


def picked(options: type[Options], source: object, **others: Any) -> Options:
    """Options of a class whose values are those of the fields of the same names of another object.

    Args:
        options: The class.
        source: The object that has the values.
        **others: Values for fields that are not to be as in `source`.

    Raises:
        InputError: A value is not acceptable.
    """
    return options(**{field.name: getattr(source, field.name) for field in fields(options)} | others)


def check_names(names: Mapping[str, Any], *classes: type[_Checked], others: Sequence[str] = ()) -> None:
    """Refuses names that are no option, and says which one may have been meant.

    Args:
        names: The options that a caller gave, by name.
        classes: The options classes that may have them.
        others: Other arguments of the call, which may have been meant.

    Raises:
        InputError: There is no option of one of the names.
    """
    known = [option.name for options in classes for option in fields(options)]
    for name in names:
        if name not in known:
            from difflib import get_close_matches

            nearest = get_close_matches(name, [*known, *others], n=1, cutoff=0.5)
            meant = f"did you mean {nearest[0]}?" if nearest else f"the options are {', '.join(known)}."
            raise InputError(f"There is no option {name}; {meant}")
