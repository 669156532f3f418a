"""Stands for the model that lies beside the released weights: the same class, parts and arguments of `generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Qwen2ForCausalLM

from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.vision.torch_reference import load_eagle, load_projector, load_siglip
from valley2_edge.geometry import GeometryOptions
from valley2_edge.runtime.core.pixels import plan_picture

from .configuration_valley import ValleyConfig

PICTURE_ID = -200
DECODER = ("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")


class VisionTower(nn.Module):
    """SigLIP under the names of the checkpoint."""

    def __init__(self, siglip: nn.Module) -> None:
        super().__init__()
        self.vision_tower = nn.Module()
        self.vision_tower.vision_model = siglip

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.vision_tower.vision_model(tiles).last_hidden_state
        return features


class ValleyQwen2ForCausalLM(Qwen2ForCausalLM):
    """Has the calls that the authors' example makes."""

    config_class = ValleyConfig

    @classmethod
    def from_pretrained(cls, checkpoint: str, config: ValleyConfig, **options: Any) -> ValleyQwen2ForCausalLM:
        model = cls(config).float()
        weights = {
            name: tensor.float()
            for path in Path(checkpoint).glob("*.safetensors")
            for name, tensor in load_file(path).items()
            if name.startswith(DECODER)
        }
        model.load_state_dict(weights)
        opened = Checkpoint.open(checkpoint)
        model.canvases = opened.config.picture.canvases
        siglip = load_siglip(opened).tower
        model.model.vision_tower = VisionTower(getattr(siglip, "vision_model", siglip))
        model.model.mm_projector = load_projector(opened)
        eagle = load_eagle(opened, opened.config.eagle).tower
        # Some releases of transformers keep the frequencies twice; the loader leaves the second copy without values.
        rotary = eagle.rotary_pos_emb
        rotary.register_buffer("original_inv_freq", rotary.inv_freq.clone(), persistent=False)
        model.model.qwen2vl_vision_tower = eagle
        return model

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        images: list[list[torch.Tensor]],
        image_sizes: list[tuple[int, int]],
        pixel_values: torch.Tensor,
        image_grid_thw: torch.Tensor,
        **options: Any,
    ) -> Any:
        eagle = self.model.qwen2vl_vision_tower(pixel_values, image_grid_thw).pooler_output
        counts = [int(rows * columns) // 4 for _, rows, columns in image_grid_thw.tolist()]
        pictures = [
            torch.cat([self._siglip_tokens(tiles, size, len(image_sizes) == 1), tokens])
            for tiles, size, tokens in zip(images[0], image_sizes, eagle.split(counts), strict=True)
        ]
        embeddings = self._spliced(input_ids[0], pictures)[None]  # (1, positions, hidden)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
        return super().generate(inputs_embeds=embeddings, attention_mask=mask, **options)

    def _siglip_tokens(self, tiles: torch.Tensor, size: tuple[int, int], tiled: bool) -> torch.Tensor:
        """The global view's tokens, then the other tiles' as one map without its padding (docs/valley2.md)."""
        tokens = self.model.mm_projector(self.model.vision_tower(tiles))  # (T, side * side, hidden)
        if not tiled:
            return tokens[0]
        side, hidden = self.config.num_patches_per_side, tokens.shape[-1]
        plan = plan_picture(*size, GeometryOptions(tokens_per_side=side, canvases=self.canvases))
        columns, rows = plan.grid_columns, plan.grid_rows
        grid = tokens[1:].reshape(rows, columns, side, side, hidden).transpose(1, 2)
        grid = grid.reshape(rows * side, columns * side, hidden)
        top, left = plan.kept_y, plan.kept_x
        kept = grid[top : top + plan.kept_rows, left : left + plan.kept_columns]
        return torch.cat([tokens[0], kept.reshape(-1, hidden)])

    def _spliced(self, ids: torch.Tensor, pictures: list[torch.Tensor]) -> torch.Tensor:
        waiting = iter(pictures)
        rows = [
            next(waiting) if token == PICTURE_ID else self.model.embed_tokens(torch.tensor([token]))
            for token in ids.tolist()
        ]
        return torch.cat(rows)
