"""Stands for the processor that lies beside the released weights: from a conversation to the model's inputs.

The prompt is laid out here anew; pixels come from this project's core, whose tests compare them with the reference's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from valley2_edge.export.checkpoint.config import read_model_config
from valley2_edge.policy import Policy
from valley2_edge.runtime.core.preprocess import black_picture, prepare_pictures

PICTURE_ID = -200
DEFAULT_SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


class ValleyProcessor:
    """Has the calls that the authors' example makes."""

    def __init__(self, checkpoint: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=True)
        self._config = read_model_config(Path(checkpoint))

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """transformers calls this before `from_pretrained`."""

    @classmethod
    def from_pretrained(cls, checkpoint: str, **options: Any) -> ValleyProcessor:
        return cls(checkpoint)

    def __call__(self, request: dict[str, Any], inference: bool) -> dict[str, Any]:
        if not inference:
            raise ValueError("training is not part of the example")
        pixels = [np.asarray(picture) for picture in request["images"]] or [black_picture()]
        prepared = prepare_pictures(pixels, self._config, Policy.of_reference("hub"))
        patches = np.concatenate([picture.patches()[0] for picture in prepared])  # (P, 588)
        doubled = np.repeat(patches.reshape(len(patches), 3, 1, -1), 2, axis=2).reshape(len(patches), -1)
        grids = [(1, picture.geometry.eagle_height // 14, picture.geometry.eagle_width // 14) for picture in prepared]
        return {
            "input_ids": torch.tensor([self._ids(request["conversations"], len(pixels))]),
            "images": [[torch.from_numpy(picture.tiles()) for picture in prepared]],
            "image_sizes": [(picture.shape[1], picture.shape[0]) for picture in pixels],
            "pixel_values": torch.from_numpy(doubled),
            "image_grid_thw": torch.tensor(grids),
        }

    def _ids(self, conversation: list[dict[str, str]], pictures: int) -> list[int]:
        given = conversation[0]["role"] == "system"
        system, turns = (conversation[0], conversation[1:]) if given else (DEFAULT_SYSTEM, conversation)
        marks = " ".join(["<im_start><image><im_end>"] * pictures)
        first = {"role": "user", "content": f"{marks}\n{turns[0]['content']}"}
        text = self.tokenizer.apply_chat_template(
            [system, first, *turns[1:]], tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = []
        for number, piece in enumerate(text.split("<image>")):
            ids += [PICTURE_ID] if number else []
            ids += self.tokenizer(piece, add_special_tokens=False)["input_ids"]
        return ids
