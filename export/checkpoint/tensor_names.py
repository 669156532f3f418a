"""Names and shapes of a Valley2 checkpoint's tensors, and the sizes that no config states (docs/valley2.md)."""

from __future__ import annotations

from valley2_edge.config import DecoderConfig, EagleConfig, ModelConfig, ProjectorConfig, SiglipConfig

Shape = tuple[int, ...]

SIGLIP_PREFIX = "model.vision_tower.vision_tower.vision_model."
POOLING_HEAD_PREFIX = SIGLIP_PREFIX + "head."
PROJECTOR_PREFIX = "model.mm_projector."
EAGLE_PREFIX = "model.qwen2vl_vision_tower."
EMBEDDINGS = "model.embed_tokens.weight"
"""The embedding table, (vocabulary, hidden); also the output matrix where the checkpoint ties the two."""
OUTPUT_WEIGHT = "lm_head.weight"
"""The output matrix, (vocabulary, hidden)."""
PICTURE_CHANNELS = 3
"""Red, green and blue."""
CONV_SIDE = 3
"""Rows and columns of the projector's convolution kernel."""
PROJECTOR_NORM_EPSILON = 1e-5
"""Epsilon of the LayerNorm in the ovis_conv_adapter projector: torch's default, which no config states."""


def _linear(name: str, outputs: int, inputs: int, bias: bool = True) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {f"{name}.weight": (outputs, inputs)}
    return shapes | {f"{name}.bias": (outputs,)} if bias else shapes


def _layer_norm(name: str, size: int) -> dict[str, Shape]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def siglip_tensors(config: SiglipConfig) -> dict[str, Shape]:
    """Names and shapes of the SigLIP tower, without the pooling head that the model never uses.

    Args:
        config: The tower's sizes.
    """
    size, patch = config.hidden_size, config.patch_size
    shapes: dict[str, Shape] = {
        f"{SIGLIP_PREFIX}embeddings.patch_embedding.weight": (size, PICTURE_CHANNELS, patch, patch),
        f"{SIGLIP_PREFIX}embeddings.patch_embedding.bias": (size,),
        f"{SIGLIP_PREFIX}embeddings.position_embedding.weight": (config.patches_per_side**2, size),
    }
    for index in range(config.num_hidden_layers):
        layer = f"{SIGLIP_PREFIX}encoder.layers.{index}."
        shapes |= _layer_norm(layer + "layer_norm1", size) | _layer_norm(layer + "layer_norm2", size)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{layer}self_attn.{part}", size, size)
        shapes |= _linear(layer + "mlp.fc1", config.intermediate_size, size)
        shapes |= _linear(layer + "mlp.fc2", size, config.intermediate_size)
    return shapes | _layer_norm(SIGLIP_PREFIX + "post_layernorm", size)


def pooling_head_tensors(config: SiglipConfig) -> dict[str, Shape]:
    """Names and shapes of SigLIP's pooling head, which a checkpoint may carry and the model never uses.

    Args:
        config: The tower's sizes.
    """
    size = config.hidden_size
    return (
        {
            f"{POOLING_HEAD_PREFIX}probe": (1, 1, size),
            f"{POOLING_HEAD_PREFIX}attention.in_proj_weight": (3 * size, size),
            f"{POOLING_HEAD_PREFIX}attention.in_proj_bias": (3 * size,),
        }
        | _linear(POOLING_HEAD_PREFIX + "attention.out_proj", size, size)
        | _layer_norm(POOLING_HEAD_PREFIX + "layernorm", size)
        | _linear(POOLING_HEAD_PREFIX + "mlp.fc1", config.intermediate_size, size)
        | _linear(POOLING_HEAD_PREFIX + "mlp.fc2", size, config.intermediate_size)
    )


def projector_tensors(config: ProjectorConfig) -> dict[str, Shape]:
    """Names and shapes of the projector.

    Args:
        config: The projector's sizes.
    """
    inputs, width, outputs = config.input_size, config.mlp_hidden_dim, config.output_size
    if config.type == "ovis_conv_adapter":
        return (
            _conv(inputs)
            | _linear(PROJECTOR_PREFIX + "mlp.0", width, inputs, bias=False)
            | _layer_norm(PROJECTOR_PREFIX + "mlp.1", width)
            | {f"{PROJECTOR_PREFIX}embedding.weight": (width, outputs)}
        )
    if config.type == "mlp_pixel_shuffle":
        inputs *= config.pixelshuffle_downsample_ratio**2
    mlp = _linear(PROJECTOR_PREFIX + "mlp.0", width, inputs) | _linear(PROJECTOR_PREFIX + "mlp.2", outputs, width)
    return mlp | _conv(outputs) if config.type == "conv_adapter" else mlp


def _conv(channels: int) -> dict[str, Shape]:
    return {
        f"{PROJECTOR_PREFIX}conv.weight": (channels, channels, CONV_SIDE, CONV_SIDE),
        f"{PROJECTOR_PREFIX}conv.bias": (channels,),
    }


def eagle_tensors(config: EagleConfig) -> dict[str, Shape]:
    """Names and shapes of the Eagle tower and its merger.

    Args:
        config: The tower's sizes.
    """
    size, patch = config.embed_dim, config.patch_size
    shapes: dict[str, Shape] = {
        f"{EAGLE_PREFIX}patch_embed.proj.weight": (size, PICTURE_CHANNELS, config.temporal_patch_size, patch, patch)
    }
    for index in range(config.depth):
        block = f"{EAGLE_PREFIX}blocks.{index}."
        shapes |= _layer_norm(block + "norm1", size) | _layer_norm(block + "norm2", size)
        shapes |= _linear(block + "attn.qkv", 3 * size, size) | _linear(block + "attn.proj", size, size)
        shapes |= _linear(block + "mlp.fc1", config.mlp_ratio * size, size)
        shapes |= _linear(block + "mlp.fc2", size, config.mlp_ratio * size)
    merged = size * config.spatial_merge_size**2
    return (
        shapes
        | _layer_norm(EAGLE_PREFIX + "merger.ln_q", size)
        | _linear(EAGLE_PREFIX + "merger.mlp.0", merged, merged)
        | _linear(EAGLE_PREFIX + "merger.mlp.2", config.hidden_size, merged)
    )


def decoder_tensors(config: DecoderConfig) -> dict[str, Shape]:
    """Names and shapes of the decoder, its embeddings and its output head.

    Args:
        config: The decoder's sizes.
    """
    size, kv_size = config.hidden_size, config.num_key_value_heads * config.head_size
    shapes: dict[str, Shape] = {EMBEDDINGS: (config.vocab_size, size)}
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}."
        shapes |= _linear(layer + "self_attn.q_proj", size, size)
        shapes |= _linear(layer + "self_attn.k_proj", kv_size, size)
        shapes |= _linear(layer + "self_attn.v_proj", kv_size, size)
        shapes |= _linear(layer + "self_attn.o_proj", size, size, bias=False)
        shapes |= _linear(layer + "mlp.gate_proj", config.intermediate_size, size, bias=False)
        shapes |= _linear(layer + "mlp.up_proj", config.intermediate_size, size, bias=False)
        shapes |= _linear(layer + "mlp.down_proj", size, config.intermediate_size, bias=False)
        shapes[layer + "input_layernorm.weight"] = (size,)
        shapes[layer + "post_attention_layernorm.weight"] = (size,)
    shapes["model.norm.weight"] = (size,)
    if not config.tie_word_embeddings:
        shapes[OUTPUT_WEIGHT] = (config.vocab_size, size)
    return shapes


def required_tensors(config: ModelConfig) -> dict[str, Shape]:
    """Names and shapes of the tensors that an export reads, in the order of the released shards.

    Args:
        config: The architecture.
    """
    eagle = {} if config.eagle is None else eagle_tensors(config.eagle)
    decoder = decoder_tensors(config.decoder)
    head = {name: decoder.pop(name) for name in list(decoder) if name == OUTPUT_WEIGHT}
    return decoder | siglip_tensors(config.siglip) | eagle | projector_tensors(config.projector) | head


def unused_tensors(config: ModelConfig) -> dict[str, Shape]:
    """Names and shapes of the tensors that a checkpoint may carry and that no answer depends on.

    They are the SigLIP pooling head; the Eagle tower of a checkpoint whose `eagle_vision_tower` is null (the
    repository's code builds and saves that tower always, the hub's obeys the null); and the output head of a checkpoint
    with tied embeddings.

    Args:
        config: The architecture.
    """
    shapes = pooling_head_tensors(config.siglip)
    if config.eagle is None:
        shapes |= eagle_tensors(EagleConfig(hidden_size=config.decoder.hidden_size))
    if config.decoder.tie_word_embeddings:
        shapes[OUTPUT_WEIGHT] = (config.decoder.vocab_size, config.decoder.hidden_size)
    return shapes
