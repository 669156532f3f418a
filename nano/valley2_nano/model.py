"""A whole Valley2 in torch, whose parameters have the released names (docs/valley2.md, "State dict")."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from valley2_edge.config import ModelConfig
from valley2_nano.decoder import AttentionLayout, Decoder, DecoderLayer
from valley2_nano.layers import Linear, gather_once
from valley2_nano.packing import PackedBatch
from valley2_nano.vision import EagleBlock, EagleTower, Projector, SiglipLayer, SiglipModel

TEMPORAL_WEIGHT = "model.qwen2vl_vision_tower.patch_embed.proj.weight"
EMBEDDING_DEVIATION = 0.1
TARGET_BUCKET = 64
"""The last MLP and the output head run over a multiple of this many rows, see packing.py."""


@dataclass(frozen=True)
class Switches:
    """Branches whose tokens are replaced by zeros, to see what an answer owes to them."""

    siglip: bool = True
    eagle: bool = True


class _Tower(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.vision_model = SiglipModel(config.siglip)


class _TowerHolder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.vision_tower = _Tower(config)


class _Body(Decoder):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.decoder)
        self.vision_tower = _TowerHolder(config)
        self.mm_projector = Projector(config.projector, config.siglip.patches_per_side)
        if config.eagle is None:
            raise ValueError("valley2-nano has an Eagle branch.")
        self.qwen2vl_vision_tower = EagleTower(config.eagle)


class Valley2Nano(nn.Module):
    """The model; masters in fp32, matrix products in the type that the caller chooses."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _Body(config)
        self.lm_head = Linear(config.decoder.hidden_size, config.decoder.vocab_size, bias=False)
        self._initialise()

    def forward(
        self, batch: PackedBatch, kind: torch.dtype = torch.float32, switches: Switches | None = None
    ) -> Tensor:
        """Logits (targets, vocabulary) in fp32 of the rows that predict an answer's tokens.

        Args:
            batch: The packed dialogues, on the model's device.
            kind: Type of the matrix products; norms, softmax and residuals stay in fp32.
            switches: Which branches the decoder gets; None: both.
        """
        value = gather_once(self.tokens(batch, kind, switches or Switches()), batch.order).float()
        layout = AttentionLayout.of(batch.spans, len(batch.order), value.device)
        count = len(batch.target_rows)
        kept = functional.pad(batch.target_rows, (0, -count % TARGET_BUCKET))
        hidden = self.model.run(value, batch.positions, layout, kind, kept)
        logits: Tensor = self.lm_head(self.model.norm(hidden, kind))[:count]
        return logits.float()

    def compile_parts(self) -> None:
        """Fuses the elementwise work around the matrix products (torch.compile); takes a minute or two at the start."""
        for module in self.modules():
            if isinstance(module, (DecoderLayer, EagleBlock, SiglipLayer)):
                # Assigned as attributes of the instance, not as methods of its class
                vars(module)["before"] = torch.compile(module.before, dynamic=True)
                vars(module)["after"] = torch.compile(module.after, dynamic=True)

    def tokens(self, batch: PackedBatch, kind: torch.dtype, switches: Switches) -> Tensor:
        """The table that `batch.order` picks from: text tokens, SigLIP tokens tile by tile, Eagle tokens."""
        parts = [self.model.embed_tokens(batch.text).to(kind)]
        if len(batch.tile_patches):
            tokens = self.model.mm_projector(
                self.model.vision_tower.vision_tower.vision_model(batch.tile_patches, kind)
            )
            parts.append(tokens if switches.siglip else torch.zeros_like(tokens))
        if len(batch.eagle_patches):
            tokens = self.model.qwen2vl_vision_tower(
                batch.eagle_patches, batch.eagle_positions, batch.eagle_groups, kind
            )
            parts.append(tokens if switches.eagle else torch.zeros_like(tokens))
        return torch.cat(parts)

    def released_state(self) -> dict[str, Tensor]:
        """The tensors in the released layout, fp32: Eagle's patch weight with its two temporal halves."""
        state = {name: tensor.detach() for name, tensor in self.state_dict().items()}
        patch = self.config.eagle.patch_size if self.config.eagle else 0
        folded = state[TEMPORAL_WEIGHT].view(-1, 3, 1, patch, patch)
        state[TEMPORAL_WEIGHT] = (folded / 2).expand(-1, -1, 2, -1, -1).contiguous()
        return state

    def load_released(self, state: dict[str, Tensor]) -> None:
        """Takes tensors in the released layout of any type; the pooling head is ignored."""
        known = self.state_dict()
        taken = {name: tensor.float() for name, tensor in state.items() if name in known}
        taken[TEMPORAL_WEIGHT] = taken[TEMPORAL_WEIGHT].sum(2).flatten(1)
        self.load_state_dict(taken)

    def _initialise(self) -> None:
        depth = self.config.decoder.num_hidden_layers
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                fan_in = module.weight[0].numel()
                # Branches that end in the residual start small (GPT-2, "Language Models are Unsupervised Multitask
                # Learners", section 2.3).
                ends = name.endswith(("o_proj", "down_proj", "out_proj", "fc2", "attn.proj"))
                scale = 1 / math.sqrt(2 * depth) if ends else 1.0
                nn.init.normal_(module.weight, std=scale / math.sqrt(fan_in))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.model.embed_tokens.weight, std=EMBEDDING_DEVIATION)
        nn.init.normal_(self.model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight, std=0.1)
        nn.init.normal_(self.lm_head.weight, std=0.02)
