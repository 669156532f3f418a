"""The plain data of a Valley2 architecture, as export writes it into a bundle and run time reads it.

Every number has bounds: far above any model of this kind, and low enough that a stranger's config makes nobody wait.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

ProjectorType = Literal["ovis_conv_adapter", "conv_adapter", "mlp_pixel_shuffle"]
TokenizeFunction = Literal["softmax", "st_argmax"]

Layers = Annotated[int, Field(strict=True, ge=1, le=512)]
Heads = Annotated[int, Field(strict=True, ge=1, le=1024)]
Width = Annotated[int, Field(strict=True, ge=1, le=1 << 16)]
InnerWidth = Annotated[int, Field(strict=True, ge=1, le=1 << 19)]
Vocabulary = Annotated[int, Field(strict=True, ge=1, le=1 << 22)]
Positions = Annotated[int, Field(strict=True, ge=1, le=1 << 24)]
Pixels = Annotated[int, Field(strict=True, ge=1, le=4096)]
CanvasSide = Annotated[int, Field(strict=True, ge=1, le=1 << 16)]
Few = Annotated[int, Field(strict=True, ge=1, le=64)]
Epsilon = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]
RopeTheta = Annotated[float, Field(strict=True, ge=1, le=1e15, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Token = Annotated[int, Field(strict=True, ge=0, le=1 << 22)]

MAX_CANVASES = 1024
MAX_TILES = 256
"""The most tiles of a canvas; the released canvases have up to 9."""
MAX_STOP_TOKENS = 64


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SiglipConfig(_Frozen):
    """Geometry of the SigLIP tower; the defaults are the released so400m-patch14-384."""

    hidden_size: Width = 1152
    num_attention_heads: Heads = 16
    num_hidden_layers: Layers = 27
    intermediate_size: InnerWidth = 4304
    image_size: Pixels = 384
    patch_size: Pixels = 14
    layer_norm_eps: Epsilon = 1e-6

    @property
    def patches_per_side(self) -> int:
        """Side of the patch map: 27 for 384 pixels, the last 6 are never seen."""
        return self.image_size // self.patch_size


class EagleConfig(_Frozen):
    """Geometry of the Eagle branch, a Qwen2-VL vision transformer; the defaults are the released sizes."""

    embed_dim: Width = 1280
    num_heads: Heads = 16
    depth: Layers = 32
    mlp_ratio: Few = 4
    hidden_size: Width = 3584
    patch_size: Pixels = 14
    spatial_merge_size: Few = 2
    temporal_patch_size: Few = 2
    layer_norm_eps: Epsilon = 1e-6
    rope_theta: RopeTheta = 10000.0


class ProjectorConfig(_Frozen):
    """The projector between SigLIP and the decoder."""

    type: ProjectorType = "ovis_conv_adapter"
    input_size: Width = 1152
    mlp_hidden_dim: InnerWidth = 32000
    output_size: Width = 3584
    pixelshuffle_downsample_ratio: Few = 3
    tokens_per_side: Pixels = 14
    tokenize_function: TokenizeFunction = "softmax"
    """How ovis_conv_adapter makes a token of scores; the other types have none."""


class DecoderConfig(_Frozen):
    """The Qwen2.5 decoder."""

    hidden_size: Width = 3584
    intermediate_size: InnerWidth = 18944
    num_hidden_layers: Layers = 28
    num_attention_heads: Heads = 28
    num_key_value_heads: Heads = 4
    vocab_size: Vocabulary = 151679
    rms_norm_eps: Epsilon = 1e-6
    rope_theta: RopeTheta = 1_000_000.0
    max_position_embeddings: Positions = 32768
    tie_word_embeddings: Flag = False

    @property
    def head_size(self) -> int:
        """Channels of one attention head: 128."""
        return self.hidden_size // self.num_attention_heads


class PictureConfig(_Frozen):
    """How pictures become tiles and tokens (docs/valley2.md, "Pictures")."""

    anyres: Flag = True
    canvases: Annotated[tuple[tuple[CanvasSide, CanvasSide], ...], Field(max_length=MAX_CANVASES)] = ()
    """Candidate canvases, (width, height) in pixels, in order of preference."""
    max_vision_token: Positions = 100_000
    only_crop_single_image: Flag = True
    use_special_start_end_token: Flag = True


class ModelConfig(_Frozen):
    """A whole Valley2: what `export` reads from config.json and what a bundle's manifest holds as `architecture`."""

    siglip: SiglipConfig = SiglipConfig()
    projector: ProjectorConfig = ProjectorConfig()
    eagle: EagleConfig | None = EagleConfig()
    """The Eagle branch; None when the checkpoint has none."""
    decoder: DecoderConfig = DecoderConfig()
    picture: PictureConfig = PictureConfig()
    stop_tokens: Annotated[tuple[Token, ...], Field(min_length=1, max_length=MAX_STOP_TOKENS)] = (151645, 151643)

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        """The parts fit one another; the messages name the keys of config.json."""
        siglip, projector, eagle, decoder = self.siglip, self.projector, self.eagle, self.decoder
        if decoder.hidden_size % decoder.num_attention_heads or decoder.head_size % 2:
            raise ValueError("hidden_size is not num_attention_heads heads of one even size")
        if decoder.num_attention_heads % decoder.num_key_value_heads:
            raise ValueError("num_key_value_heads does not divide num_attention_heads")
        if siglip.hidden_size % siglip.num_attention_heads:
            raise ValueError("SigLIP's hidden_size is not a multiple of its heads")
        if siglip.patch_size > siglip.image_size:
            raise ValueError("SigLIP's patch_size is larger than its image_size")
        if projector.input_size != siglip.hidden_size:
            raise ValueError(f"mm_hidden_size {projector.input_size} is not SigLIP's width {siglip.hidden_size}")
        if projector.output_size != decoder.hidden_size:
            raise ValueError(f"the projector's width {projector.output_size} is not hidden_size {decoder.hidden_size}")
        self._check_tokens_per_side()
        if eagle is not None and eagle.embed_dim % (4 * eagle.num_heads):
            raise ValueError("Eagle's head size is not a multiple of 4")
        if eagle is not None and eagle.hidden_size != decoder.hidden_size:
            raise ValueError(
                f"the Eagle tower ends in {eagle.hidden_size} channels, but the decoder has {decoder.hidden_size}; "
                "a vision_geometry.json beside config.json can give the tower's sizes"
            )
        side = siglip.image_size
        for width, height in self.picture.canvases:
            if width % side or height % side or width * height > MAX_TILES * side * side:
                raise ValueError(
                    f"grid_pinpoints: {width} x {height} pixels are no canvas of at most {MAX_TILES} tiles of {side}"
                )
        if max(self.stop_tokens) >= decoder.vocab_size:
            raise ValueError(f"eos_token_id {max(self.stop_tokens)} is outside of vocab_size {decoder.vocab_size}")
        return self

    def _check_tokens_per_side(self) -> None:
        patches, projector = self.siglip.patches_per_side, self.projector
        side = (patches + 1) // 2
        if projector.type == "mlp_pixel_shuffle":
            side, rest = divmod(patches, projector.pixelshuffle_downsample_ratio)
            if rest:
                ratio = projector.pixelshuffle_downsample_ratio
                raise ValueError(f"pixelshuffle_downsample_ratio {ratio} does not divide {patches} patches")
        if projector.tokens_per_side != side:
            raise ValueError(
                f"num_patches_per_side is {projector.tokens_per_side}, but {projector.type} makes {side} tokens a side"
            )


def first_problem(error: ValidationError) -> str:
    """The first thing that pydantic found, as part of a sentence: the place and what is wrong there."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part)[:80] for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
