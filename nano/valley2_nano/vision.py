"""SigLIP, the ovis_conv_adapter projector and the Eagle tower in torch (docs/valley2.md, "SigLIP" to "Eagle tower")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from valley2_edge.config import EagleConfig, ProjectorConfig, SiglipConfig
from valley2_nano.layers import LayerNorm, Linear, linear, mix, pixels_linear, present, rotate
from valley2_nano.samples import EAGLE_DEVIATION, EAGLE_MEAN

PICTURE_CHANNELS = 3
OVIS_EPSILON = 1e-5
QUICK_GELU_SLOPE = 1.702
VOCABULARY_SHARPNESS = 0.25
"""Gain at the start of the norm before the visual softmax: a flat one would make all tokens the same mean."""
EMBEDDING_DEVIATION = 2.0


class _Attention(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = Linear(size, size), Linear(size, size), Linear(size, size)
        self.out_proj = Linear(size, size)

    def joined(self, value: Tensor) -> Tensor:
        """(tokens, size) to (tokens, 3 * size)."""
        parts = (self.q_proj, self.k_proj, self.v_proj)
        return linear(value, torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))


class _Mlp(nn.Module):
    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(size, width), Linear(width, size)


class SiglipLayer(nn.Module):
    """One layer, in the steps before and after the attention."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1, self.layer_norm2 = LayerNorm(size, eps=eps), LayerNorm(size, eps=eps)
        self.self_attn, self.mlp = _Attention(size), _Mlp(size, config.intermediate_size)
        self.heads = config.num_attention_heads
        self.tokens = config.patches_per_side**2

    def forward(self, value: Tensor, kind: torch.dtype) -> Tensor:
        """(tiles * tokens, size) fp32 to the same."""
        return self.after(value, self._mix(self.before(value, kind)), kind)

    def _mix(self, joined: Tensor) -> Tensor:
        parts = joined.view(-1, self.tokens, 3, self.heads, joined.shape[1] // 3 // self.heads)
        return mix(parts)

    def before(self, value: Tensor, kind: torch.dtype) -> Tensor:
        """(rows, size) to queries, keys and values (rows, 3 * size)."""
        return self.self_attn.joined(self.layer_norm1(value, kind))

    def after(self, value: Tensor, mixed: Tensor, kind: torch.dtype) -> Tensor:
        """Adds the attention's result (rows, size) and the MLP to the residual (rows, size)."""
        value = value + self.self_attn.out_proj(mixed)
        wide = functional.gelu(self.mlp.fc1(self.layer_norm2(value, kind)), approximate="tanh")
        narrow: Tensor = self.mlp.fc2(wide)
        return value + narrow


class _SiglipEmbeddings(nn.Module):
    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        size, patch = config.hidden_size, config.patch_size
        self.patch_embedding = nn.Conv2d(PICTURE_CHANNELS, size, patch, patch)
        self.position_embedding = nn.Embedding(config.patches_per_side**2, size)
        # Applied to a pixel less 128: v = u / 127.5 - 1 (docs/valley2.md, "Tiles")
        self.pixel_scale: Tensor
        self.pixel_offset: Tensor
        self.register_buffer("pixel_scale", torch.tensor(1 / 127.5), persistent=False)
        self.register_buffer("pixel_offset", torch.tensor(128 / 127.5 - 1), persistent=False)

    def forward(self, patches: Tensor, kind: torch.dtype) -> Tensor:
        """int8 (tiles * tokens, 3 * patch * patch) to (tiles * tokens, size) fp32; the convolution as one product."""
        weight = self.patch_embedding.weight.flatten(1)
        value = pixels_linear(patches, weight, self.pixel_scale, self.pixel_offset, kind)
        value = value + present(self.patch_embedding.bias)
        positions = self.position_embedding.weight  # (tokens, size)
        return (value.view(-1, *positions.shape) + positions).flatten(0, 1)


class _Layers(nn.Module):
    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class SiglipModel(nn.Module):
    """The SigLIP tower without its pooling head."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.embeddings = _SiglipEmbeddings(config)
        self.encoder = _Layers([SiglipLayer(config) for _ in range(config.num_hidden_layers)])
        self.post_layernorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, patches: Tensor, kind: torch.dtype) -> Tensor:
        """Patches (tiles * tokens, 3 * patch * patch) int8 to features (tiles * tokens, size) of the type."""
        value = self.embeddings(patches, kind)
        for layer in self.encoder.layers:
            value = layer(value, kind)
        features: Tensor = self.post_layernorm(value, kind)
        return features


class Projector(nn.Module):
    """ovis_conv_adapter: a soft choice among the words of a visual vocabulary."""

    def __init__(self, config: ProjectorConfig, side: int) -> None:
        super().__init__()
        size, width = config.input_size, config.mlp_hidden_dim
        self.conv = nn.Conv2d(size, size, 3, 2, 1)
        norm = LayerNorm(width, eps=OVIS_EPSILON)
        self.mlp = nn.ModuleList([Linear(size, width, bias=False), norm])
        self.embedding = nn.Embedding(width, config.output_size)
        self.side = side
        nn.init.constant_(norm.weight, VOCABULARY_SHARPNESS)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_DEVIATION)

    def forward(self, features: Tensor) -> Tensor:
        """Features (tiles * side * side, size) to tokens (tiles * tokens, decoder size)."""
        kind, size = features.dtype, features.shape[1]
        maps = features.view(-1, self.side, self.side, size).permute(0, 3, 1, 2)
        reduced = functional.conv2d(maps, self.conv.weight.to(kind), present(self.conv.bias).to(kind), 2, 1)
        scores = self.mlp[0](reduced.permute(0, 2, 3, 1).reshape(-1, size))
        probabilities = torch.softmax(self.mlp[1](scores.float()), -1).to(kind)
        return linear(probabilities, self.embedding.weight.t())


class _EagleAttention(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.qkv, self.proj = Linear(size, 3 * size), Linear(size, size)


class EagleBlock(nn.Module):
    """One layer, in the steps before and after the attention."""

    def __init__(self, config: EagleConfig) -> None:
        super().__init__()
        size, eps = config.embed_dim, config.layer_norm_eps
        self.norm1, self.norm2 = LayerNorm(size, eps=eps), LayerNorm(size, eps=eps)
        self.attn, self.mlp = _EagleAttention(size), _Mlp(size, config.mlp_ratio * size)
        self.heads = config.num_heads

    def forward(
        self, value: Tensor, rotation: tuple[Tensor, Tensor], groups: Sequence[tuple[int, int]], kind: torch.dtype
    ) -> Tensor:
        """(patches, size) fp32 to the same; attention stays inside each picture."""
        joined = self.before(value, rotation, kind)
        mixed = []
        used = [pictures * patches for pictures, patches in groups]
        *parts, padding = torch.split(joined, [*used, len(joined) - sum(used)])
        for part, (pictures, patches) in zip(parts, groups, strict=True):
            mixed.append(mix(torch.unflatten(part, 0, (pictures, patches))))
        mixed.append(padding[:, 0].flatten(1))
        return self.after(value, torch.cat(mixed), kind)

    def before(self, value: Tensor, rotation: tuple[Tensor, Tensor], kind: torch.dtype) -> Tensor:
        """(patches, size) to rotated queries, rotated keys, and values: (patches, 3, heads, head size)."""
        size = value.shape[1]
        parts = self.attn.qkv(self.norm1(value, kind)).view(-1, 3 * self.heads, size // self.heads)
        turned, values = torch.split(parts, [2 * self.heads, self.heads], 1)
        return torch.unflatten(torch.cat([rotate(turned, *rotation), values], 1), 1, (3, self.heads))

    def after(self, value: Tensor, mixed: Tensor, kind: torch.dtype) -> Tensor:
        """Adds the attention's result (patches, size) and the MLP to the residual (patches, size)."""
        value = value + self.attn.proj(mixed)
        wide = self.mlp.fc1(self.norm2(value, kind))
        narrow: Tensor = self.mlp.fc2(wide * torch.sigmoid(QUICK_GELU_SLOPE * wide))
        return value + narrow


class _Merger(nn.Module):
    def __init__(self, config: EagleConfig) -> None:
        super().__init__()
        self.merged = config.embed_dim * config.spatial_merge_size**2
        self.ln_q = LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.mlp = nn.ModuleDict({"0": Linear(self.merged, self.merged), "2": Linear(self.merged, config.hidden_size)})

    def forward(self, value: Tensor, kind: torch.dtype) -> Tensor:
        """(patches, size) fp32 to tokens (patches / 4, decoder size)."""
        wide = functional.gelu(self.mlp["0"](self.ln_q(value, kind).view(-1, self.merged)))
        tokens: Tensor = self.mlp["2"](wide)
        return tokens


class _FoldedPatchEmbedding(nn.Module):
    """The patch convolution with its two temporal halves summed: a still picture gives both the same pixels."""

    def __init__(self, config: EagleConfig) -> None:
        super().__init__()
        self.proj = Linear(PICTURE_CHANNELS * config.patch_size**2, config.embed_dim, bias=False)


class EagleTower(nn.Module):
    """The Eagle branch with its merger."""

    def __init__(self, config: EagleConfig) -> None:
        super().__init__()
        self.patch_embed = _FoldedPatchEmbedding(config)
        self.blocks = nn.ModuleList(EagleBlock(config) for _ in range(config.depth))
        self.merger = _Merger(config)
        half = config.embed_dim // config.num_heads // 2
        frequencies = 1.0 / config.rope_theta ** (torch.arange(0, half, 2, dtype=torch.float32) / half)
        self.frequencies: Tensor
        self.register_buffer("frequencies", frequencies, persistent=False)
        deviation, mean = torch.tensor(EAGLE_DEVIATION), torch.tensor(EAGLE_MEAN)
        pixels = config.patch_size**2
        self.pixel_scale: Tensor
        self.pixel_offset: Tensor
        # Applied to a pixel less 128, (588,) each
        self.register_buffer("pixel_scale", (1 / 255 / deviation).repeat_interleave(pixels), persistent=False)
        offset = ((128 / 255 - mean) / deviation).repeat_interleave(pixels)
        self.register_buffer("pixel_offset", offset, persistent=False)

    def forward(
        self, patches: Tensor, positions: Tensor, groups: Sequence[tuple[int, int]], kind: torch.dtype
    ) -> Tensor:
        """Tokens of all pictures of a batch.

        Args:
            patches: (patches, 588) int8, pictures one after the other; rows beyond the groups' are padding.
            positions: (patches, 2), row and column in the picture's grid.
            groups: (pictures, patches of each) of neighbouring pictures with equally many patches, in order.
            kind: Type of the matrix products.

        Returns:
            (patches / 4, decoder size).
        """
        angles = (positions.float()[:, :, None] * self.frequencies).flatten(1)[:, None]  # (patches, 1, head size / 2)
        rotation = angles.cos(), angles.sin()
        value = pixels_linear(patches, self.patch_embed.proj.weight, self.pixel_scale, self.pixel_offset, kind)
        for block in self.blocks:
            value = block(value, rotation, groups, kind)
        tokens: Tensor = self.merger(value, kind)
        return tokens
