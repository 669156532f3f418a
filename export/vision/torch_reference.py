"""Loads the vision components in torch and float32, as the reference that exported components are compared with."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from math import prod

import torch
from torch import nn
from torch.nn import functional
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from valley2_edge.config import EagleConfig, ProjectorConfig, SiglipConfig
from valley2_edge.errors import CheckpointError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.checkpoint.tensor_names import (
    EAGLE_PREFIX,
    PICTURE_CHANNELS,
    PROJECTOR_NORM_EPSILON,
    PROJECTOR_PREFIX,
    SIGLIP_PREFIX,
    Shape,
    eagle_tensors,
    projector_tensors,
    siglip_tensors,
)

FLOAT_BYTES = 4
"""Size of a float32."""


class SiglipReference(nn.Module):
    """transformers' SigLIP tower without its pooling head."""

    def __init__(self, config: SiglipConfig):
        super().__init__()
        self.tower = SiglipVisionModel(
            SiglipVisionConfig(
                **config.model_dump(), num_channels=PICTURE_CHANNELS, hidden_act="gelu_pytorch_tanh",
                vision_use_head=False,
            )
        )  # fmt: skip

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Computes features (tiles, patches, hidden) of tiles (tiles, 3, image, image)."""
        features: torch.Tensor = self.tower(tiles).last_hidden_state
        return features


class EagleReference(nn.Module):
    """transformers' Qwen2-VL vision tower, which takes pairs of patches that follow one another in time."""

    def __init__(self, config: EagleConfig):
        super().__init__()
        self.config = config
        sizes = config.model_dump(exclude={"layer_norm_eps", "rope_theta"})
        self.tower = Qwen2VisionTransformerPretrainedModel(Qwen2VLVisionConfig(**sizes, in_channels=PICTURE_CHANNELS))

    def forward(self, patches: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Computes tokens (rows * columns / 4, hidden) of one picture's patches (rows * columns, 588)."""
        count, temporal = patches.shape[0], self.config.temporal_patch_size
        # (patches, channels, temporal, y * x): a still picture's temporal slices are equal
        pairs = patches.reshape(count, PICTURE_CHANNELS, 1, -1).expand(-1, -1, temporal, -1).reshape(count, -1)
        tokens: torch.Tensor = self.tower(pairs, torch.tensor([[1, rows, columns]])).pooler_output
        return tokens


class ProjectorReference(nn.Module):
    """The projector, written as plainly as possible (docs/valley2.md, "Projector")."""

    def __init__(self, config: ProjectorConfig):
        super().__init__()
        self.config = config
        inputs, width, outputs = config.input_size, config.mlp_hidden_dim, config.output_size
        if config.type == "ovis_conv_adapter":
            self.conv = nn.Conv2d(inputs, inputs, 3, stride=2, padding=1)
            self.mlp = nn.Sequential(
                nn.Linear(inputs, width, bias=False), nn.LayerNorm(width, eps=PROJECTOR_NORM_EPSILON)
            )
            self.embedding = nn.Embedding(width, outputs)
            return
        if config.type == "mlp_pixel_shuffle":
            inputs *= config.pixelshuffle_downsample_ratio**2
        else:
            self.conv = nn.Conv2d(outputs, outputs, 3, stride=2, padding=1)
        self.mlp = nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, outputs))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Computes tokens (tiles, tokens, hidden) of features (tiles, patches, channels)."""
        if self.config.type == "ovis_conv_adapter":
            scores: torch.Tensor = self.mlp(self._convolve(features))
            if self.config.tokenize_function == "st_argmax":
                # DIFFERS: the reference multiplies (one-hot - scores) + scores with the embeddings, for the sake of
                # gradients; that is a one but for its rounding.
                chosen: torch.Tensor = self.embedding(scores.argmax(dim=-1))
                return chosen
            return functional.softmax(scores, dim=-1) @ self.embedding.weight
        if self.config.type == "conv_adapter":
            return self._convolve(self.mlp(features))
        tokens: torch.Tensor = self.mlp(self._shuffle(features))
        return tokens

    def _convolve(self, value: torch.Tensor) -> torch.Tensor:
        tiles, patches, channels = value.shape
        side = int(patches**0.5)
        reduced: torch.Tensor = self.conv(value.transpose(1, 2).reshape(tiles, channels, side, side))
        return reduced.flatten(2).transpose(1, 2)

    def _shuffle(self, value: torch.Tensor) -> torch.Tensor:
        tiles, patches, channels = value.shape
        side, ratio = int(patches**0.5), self.config.pixelshuffle_downsample_ratio
        patch_map = value.reshape(tiles, side, side, channels)
        neighbours = [patch_map[:, dy::ratio, dx::ratio] for dy in range(ratio) for dx in range(ratio)]
        return torch.cat(neighbours, dim=-1).flatten(1, 2)


def load_siglip(checkpoint: Checkpoint) -> SiglipReference:
    """Loads the SigLIP tower.

    Args:
        checkpoint: Where the weights come from.

    Raises:
        CheckpointError: A tensor cannot be read, or does not belong to the tower.
    """
    config = checkpoint.config.siglip
    with torch.device("meta"):
        reference = SiglipReference(config)
    tower = getattr(reference.tower, "vision_model", reference.tower)
    _load(tower, checkpoint, SIGLIP_PREFIX, siglip_tensors(config))
    # The positions are no weight and were made on the meta device above.
    tower.embeddings.position_ids = torch.arange(config.patches_per_side**2)[None]
    return reference


def load_eagle(checkpoint: Checkpoint, config: EagleConfig) -> EagleReference:
    """Loads the Eagle tower.

    Args:
        checkpoint: Where the weights come from.
        config: The tower's sizes.

    Raises:
        CheckpointError: A tensor cannot be read, or does not belong to the tower.
    """
    with torch.device("meta"):
        reference = EagleReference(config)
    _load(reference.tower, checkpoint, EAGLE_PREFIX, eagle_tensors(config))
    # The frequencies are no weight and were made on the meta device above; transformers hard-codes the epsilon.
    half = config.embed_dim // config.num_heads // 2
    exponents = torch.arange(0, half, 2, dtype=torch.float32) / half
    frequencies = 1.0 / config.rope_theta**exponents
    reference.tower.rotary_pos_emb.register_buffer("inv_freq", frequencies, persistent=False)
    for module in reference.tower.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = config.layer_norm_eps
    return reference


def load_projector(checkpoint: Checkpoint) -> ProjectorReference:
    """Loads the projector.

    Args:
        checkpoint: Where the weights come from.

    Raises:
        CheckpointError: A tensor cannot be read, or does not belong to the projector.
    """
    config = checkpoint.config.projector
    with torch.device("meta"):
        reference = ProjectorReference(config)
    _load(reference, checkpoint, PROJECTOR_PREFIX, projector_tensors(config))
    return reference


def _load(module: nn.Module, checkpoint: Checkpoint, prefix: str, shapes: Mapping[str, Shape]) -> None:
    # One mapping for all weights: freed heap blocks of this size would stay with the process, and a session follows.
    memory = mmap.mmap(-1, FLOAT_BYTES * sum(prod(shape) for shape in shapes.values()))
    weights: dict[str, torch.Tensor] = {}
    offset = 0
    for name, shape in shapes.items():
        weight = torch.frombuffer(memory, dtype=torch.float32, count=prod(shape), offset=offset).view(shape)
        weights[name.removeprefix(prefix)] = weight.copy_(checkpoint.tensor(name))
        offset += FLOAT_BYTES * prod(shape)
    try:
        module.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"The installed transformers does not take the tensors of {prefix}: {error}") from error
    module.eval().requires_grad_(False)
