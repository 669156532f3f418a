"""The sizes of valley2-nano, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from valley2_edge.config import (
    DecoderConfig,
    EagleConfig,
    ModelConfig,
    PictureConfig,
    ProjectorConfig,
    SiglipConfig,
)


@dataclass(frozen=True)
class NanoSizes:
    """Widths, depths and picture sizes; the matrices' column counts in the decoder are multiples of an int4 group."""

    tile_size: int = 224
    """Side of a SigLIP tile, pixels; one of the released configuration's choices."""
    largest_grid: int = 2
    """Tiles along one side of a canvas at most."""
    siglip_patch: int = 28
    siglip_size: int = 128
    siglip_layers: int = 3
    siglip_heads: int = 4
    siglip_mlp: int = 384
    visual_vocabulary: int = 512
    eagle_size: int = 192
    eagle_layers: int = 4
    eagle_heads: int = 4
    eagle_mlp_ratio: int = 4
    decoder_size: int = 256
    decoder_layers: int = 5
    decoder_heads: int = 4
    decoder_kv_heads: int = 2
    decoder_mlp: int = 640
    max_positions: int = 4096
    rope_theta: float = 1_000_000.0

    def config(self, vocabulary_size: int, stop_tokens: tuple[int, ...]) -> ModelConfig:
        """The architecture as the exporter and the run time know it.

        Args:
            vocabulary_size: Entries of the tokenizer, special tokens included.
            stop_tokens: Ids that end an answer.
        """
        siglip = SiglipConfig(
            hidden_size=self.siglip_size,
            num_attention_heads=self.siglip_heads,
            num_hidden_layers=self.siglip_layers,
            intermediate_size=self.siglip_mlp,
            image_size=self.tile_size,
            patch_size=self.siglip_patch,
        )
        grid = range(1, self.largest_grid + 1)
        return ModelConfig(
            siglip=siglip,
            projector=ProjectorConfig(
                input_size=self.siglip_size,
                mlp_hidden_dim=self.visual_vocabulary,
                output_size=self.decoder_size,
                tokens_per_side=(siglip.patches_per_side + 1) // 2,
            ),
            eagle=EagleConfig(
                embed_dim=self.eagle_size,
                num_heads=self.eagle_heads,
                depth=self.eagle_layers,
                mlp_ratio=self.eagle_mlp_ratio,
                hidden_size=self.decoder_size,
            ),
            decoder=DecoderConfig(
                hidden_size=self.decoder_size,
                intermediate_size=self.decoder_mlp,
                num_hidden_layers=self.decoder_layers,
                num_attention_heads=self.decoder_heads,
                num_key_value_heads=self.decoder_kv_heads,
                vocab_size=vocabulary_size,
                rope_theta=self.rope_theta,
                max_position_embeddings=self.max_positions,
            ),
            picture=PictureConfig(canvases=tuple((self.tile_size * i, self.tile_size * j) for i in grid for j in grid)),
            stop_tokens=stop_tokens,
        )
