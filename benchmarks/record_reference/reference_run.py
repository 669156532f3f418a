"""Runs the reference's own code on one question and notes what its parts compute.

The parts are found by the names of the checkpoint's tensors, which are all that is known of the code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from questions import ReferenceQuestion

from valley2_edge.errors import InputError

Array = npt.NDArray[Any]

SIGLIP = "model.vision_tower.vision_tower.vision_model.post_layernorm"
PROJECTOR = "model.mm_projector"
EAGLE = "model.qwen2vl_vision_tower.merger"
FIRST_LAYER = "model.layers.0"
NORM = "model.norm"
HEAD = "lm_head"
LOGIT_ROWS = 64
"""Last positions of the prompt whose logits are kept."""
_PATCHES_OF_A_TOKEN = 4
_INPUTS = ("input_ids", "images", "image_sizes", "pixel_values", "image_grid_thw")


@dataclass(frozen=True)
class ReferenceRun:
    """What the reference made of a question, in float32 unless it says otherwise."""

    input_ids: Array
    """(n,) int32, with -200 for a picture."""
    tiles: Array
    """SigLIP's input, (tiles, 3, size, size)."""
    tiles_per_image: list[int]
    image_sizes: list[list[int]]
    """Width and height of each picture."""
    patches: Array | None
    """Eagle's input, (patches, 1176); None without that tower."""
    grids: Array | None
    """(pictures, 3) int32: time, rows and columns of patches."""
    stages: dict[str, Array]
    """By the names of docs/golden.md: what the towers, the projector and the decoder computed for the prompt."""
    scores: Array
    """Logits before each token of the answer, (tokens, vocabulary)."""
    tokens: Array
    """The answer, (tokens,) int32."""


def load_reference(checkpoint: str, dtype: torch.dtype, device: str) -> tuple[Any, Any]:
    """Loads the model and its processor by the code that lies in the checkpoint.

    Args:
        checkpoint: A directory, or an id of the Hugging Face hub.
        dtype: What the model computes in.
        device: Where.

    Returns:
        The model and the processor.
    """
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(checkpoint, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)  # type: ignore[no-untyped-call]
    return model.to(dtype=dtype, device=device).eval(), processor


def run_reference(model: Any, processor: Any, question: ReferenceQuestion, new_tokens: int) -> ReferenceRun:
    """Asks the reference one question, greedily.

    Args:
        model: The reference's model.
        processor: Its processor, called as its authors' example does.
        question: The question.
        new_tokens: Tokens of the answer.

    Raises:
        InputError: The reference's code has another interface than the released one.
    """
    pictures = [Image.fromarray(picture) for picture in question.pictures]
    prepared = processor({"conversations": question.history, "images": pictures}, inference=True)
    missing = [name for name in _INPUTS if name not in prepared]
    if missing:
        raise InputError(f"The reference's processor gives no {', '.join(missing)}: it is not the released one.")
    noted: dict[str, list[torch.Tensor]] = {}
    with torch.inference_mode(), _noting(model, noted):
        answer = model.generate(
            input_ids=prepared["input_ids"].to(model.device),
            images=_moved(prepared["images"], model),
            image_sizes=prepared["image_sizes"],
            pixel_values=_moved(prepared["pixel_values"], model),
            image_grid_thw=_moved(prepared["image_grid_thw"], model, cast=False),
            do_sample=False,
            max_new_tokens=new_tokens,
            repetition_penalty=1.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        stages = _stages(noted, prepared["image_grid_thw"]) | _logits(noted, model)
    scores = torch.cat(list(answer.scores))  # (tokens, vocabulary)
    pictures_tiles = _tiles_by_picture(prepared["images"])
    patches, grids = prepared["pixel_values"], prepared["image_grid_thw"]
    return ReferenceRun(
        input_ids=prepared["input_ids"][0].numpy().astype(np.int32),
        tiles=np.concatenate([_floats(tiles) for tiles in pictures_tiles]),
        tiles_per_image=[len(tiles) for tiles in pictures_tiles],
        image_sizes=np.asarray(prepared["image_sizes"]).reshape(-1, 2).tolist(),
        patches=None if patches is None else _floats(patches),
        grids=None if grids is None else grids.numpy().astype(np.int32),
        stages=stages,
        scores=_floats(scores),
        # Whether the sequence begins with the prompt depends on the code; it ends with the answer.
        tokens=answer.sequences[0, -len(scores) :].cpu().numpy().astype(np.int32),
    )


@contextmanager
def _noting(model: Any, noted: dict[str, list[torch.Tensor]]) -> Iterator[None]:
    """Notes what goes into the decoder's first layer and what comes out of the other parts, call by call."""

    def on_output(name: str) -> Callable[..., None]:
        def note(_: Any, __: Any, output: Any) -> None:
            noted.setdefault(name, []).append(_first_tensor(output))

        return note

    def on_input(_: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        noted.setdefault(FIRST_LAYER, []).append(_first_tensor(inputs[0] if inputs else named["hidden_states"]))

    with ExitStack() as stack:
        for name in (SIGLIP, PROJECTOR, EAGLE, NORM):
            part = _part(model, name)
            if part is not None:
                stack.callback(part.register_forward_hook(on_output(name)).remove)
        layer = _part(model, FIRST_LAYER)
        if layer is None:
            raise InputError(f"The reference's model has no {FIRST_LAYER}: it is not the released one.")
        stack.callback(layer.register_forward_pre_hook(on_input, with_kwargs=True).remove)
        yield


def _part(model: Any, name: str) -> Any:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _first_tensor(value: Any) -> torch.Tensor:
    """The tensor itself, or the first one of a tuple or of a model's output."""
    while not isinstance(value, torch.Tensor):
        value = value[0]
    return value.detach()


def _stages(noted: dict[str, list[torch.Tensor]], grids: torch.Tensor | None) -> dict[str, Array]:
    # The first call is the prompt's; the others are those of the answer's tokens.
    embeddings = noted[FIRST_LAYER][0]  # (1, positions, hidden)
    stages = {"inputs_embeds": _floats(embeddings[0])}
    for stage, name in (("siglip_features", SIGLIP), ("projector_out", PROJECTOR)):
        if name in noted:
            stages[stage] = np.concatenate([_floats(output) for output in noted[name]])
    if EAGLE in noted and grids is not None:
        tokens = np.concatenate([_floats(output) for output in noted[EAGLE]])
        # The repository's code runs this tower twice over the same pictures.
        stages["eagle_features"] = tokens[: int(grids.prod(dim=1).sum()) // _PATCHES_OF_A_TOKEN]
    return stages


def _logits(noted: dict[str, list[torch.Tensor]], model: Any) -> dict[str, Array]:
    """Logits of the prompt's last positions; `generate` itself asks for those of the last one alone."""
    head = _part(model, HEAD)
    if head is None or NORM not in noted:
        return {}
    return {"logits_last": _floats(head(noted[NORM][0][0, -LOGIT_ROWS:]))}


def _tiles_by_picture(images: Any) -> list[torch.Tensor]:
    """The tiles of each picture, (tiles, 3, size, size), however deep the lists are nested."""
    if isinstance(images, torch.Tensor):
        return [images[None] if images.ndim == 3 else images]
    if all(isinstance(image, torch.Tensor) and image.ndim == 3 for image in images):
        return [torch.stack(list(images))]
    return [tiles for image in images for tiles in _tiles_by_picture(image)]


def _moved(value: Any, model: Any, *, cast: bool = True) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device=model.device, dtype=model.dtype if cast else value.dtype)
    return value if value is None else [_moved(item, model, cast=cast) for item in value]


def _floats(tensor: torch.Tensor) -> Array:
    return tensor.float().cpu().numpy()
