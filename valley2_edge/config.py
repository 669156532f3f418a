"""The plain data of a Valley2 architecture, as export writes it into a bundle and run time reads it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

ProjectorType = Literal["ovis_conv_adapter", "conv_adapter", "mlp_pixel_shuffle"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SiglipConfig(_Frozen):
    """Geometry of the SigLIP tower; the defaults are the released so400m-patch14-384."""

    hidden_size: int = 1152
    num_attention_heads: int = 16
    num_hidden_layers: int = 27
    intermediate_size: int = 4304
    image_size: int = 384
    patch_size: int = 14
    layer_norm_eps: float = 1e-6

    @property
    def patches_per_side(self) -> int:
        """Side of the patch map: 27 for 384 pixels, the last 6 are never seen."""
        return self.image_size // self.patch_size


class EagleConfig(_Frozen):
    """Geometry of the Eagle branch, a Qwen2-VL vision transformer; the defaults are the released sizes."""

    embed_dim: int = 1280
    num_heads: int = 16
    depth: int = 32
    mlp_ratio: int = 4
    hidden_size: int = 3584
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    layer_norm_eps: float = 1e-6
    rope_theta: float = 10000.0


class ProjectorConfig(_Frozen):
    """The projector between SigLIP and the decoder."""

    type: ProjectorType = "ovis_conv_adapter"
    input_size: int = 1152
    mlp_hidden_dim: int = 32000
    output_size: int = 3584
    pixelshuffle_downsample_ratio: int = 3
    tokens_per_side: int = 14


class DecoderConfig(_Frozen):
    """The Qwen2.5 decoder."""

    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    vocab_size: int = 151679
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    max_position_embeddings: int = 32768
    tie_word_embeddings: bool = False

    @property
    def head_size(self) -> int:
        """Channels of one attention head: 128."""
        return self.hidden_size // self.num_attention_heads


class PictureConfig(_Frozen):
    """How pictures become tiles and tokens (docs/valley2.md, "Pictures")."""

    anyres: bool = True
    canvases: tuple[tuple[int, int], ...] = ()
    """Candidate canvases, (width, height) in pixels, in order of preference."""
    max_vision_token: int = 100_000
    only_crop_single_image: bool = True
    use_special_start_end_token: bool = True


class ModelConfig(_Frozen):
    """A whole Valley2: what `export` reads from config.json and what a bundle's manifest holds as `architecture`."""

    siglip: SiglipConfig = SiglipConfig()
    projector: ProjectorConfig = ProjectorConfig()
    eagle: EagleConfig | None = EagleConfig()
    """None: a non-Eagle checkpoint."""
    decoder: DecoderConfig = DecoderConfig()
    picture: PictureConfig = PictureConfig()
    stop_tokens: tuple[int, ...] = (151645, 151643)
