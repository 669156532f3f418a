"""What each key of a checkpoint's config files does (docs/valley2.md, "config.json").

A key is read, or has one value that is supported, or is known to change nothing. Any other key is refused by its name:
it may change the arithmetic, as `rope_parameters` did when transformers 5 began to write it.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from valley2_edge.errors import CheckpointError
from valley2_edge.outside_files import shown

READ = frozenset({
    "anyres", "dtype", "eagle_vision_tower", "eos_token_id", "grid_pinpoints", "head_dim", "hidden_size",
    "intermediate_size", "layer_types", "max_position_embeddings", "max_vision_token", "mlp_hidden_dim",
    "mm_hidden_size", "mm_projector_type", "mm_vision_tower", "model_class", "model_type", "num_attention_heads",
    "num_hidden_layers", "num_key_value_heads", "num_patches_per_side", "only_crop_single_image",
    "pixelshuffle_downsample_ratio", "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta",
    "tie_word_embeddings", "tokenize_function", "torch_dtype", "use_special_start_end_token", "vit_crop_size",
    "vit_patch_size", "vocab_size",
})  # fmt: skip
"""Keys of config.json that config.py reads."""

# Each key with the values that are supported (None stands for an absent key), and what another value would mean.
SUPPORTED: dict[str, tuple[tuple[object, ...], str]] = {
    "add_cross_attention": ((False,), "attention to an encoder"),
    "attention_bias": ((True, None), "attention without biases"),
    "chunk_size_feed_forward": ((0,), "another feed-forward layer"),
    "cross_attention_hidden_size": ((None,), "attention to an encoder"),
    "hidden_act": (("silu",), "another decoder activation"),
    "is_encoder_decoder": ((False,), "a model with an encoder"),
    "mlp_bias": ((False, None), "biases in the feed-forward layers"),
    "mm_use_im_start_end": ((False,), "embeddings around pictures"),
    "mm_vision_select_feature": (("cls_patch",), "another selection of features"),
    "navit_merger_hidden_dim": ((None,), "another Eagle merger"),
    "only_navit": ((False, None), "a model without SigLIP"),
    "partial_rotary_factor": ((1, None), "heads that are rotated in part"),
    "pretraining_tp": ((1,), "products in slices"),
    "pruned_heads": (({}, None), "heads that were removed"),
    "quantization_config": ((None,), "weights that are quantized already"),
    "tie_encoder_decoder": ((False,), "a model with an encoder"),
    "token_compressor_config": ((None,), "a token compressor"),
    "tokenizer_model_max_length": ((None,), "truncation of the prompt"),
    "use_sliding_window": ((False, None), "sliding-window attention"),
}

IGNORED = frozenset({
    # About the file itself and the program that wrote it
    "_attn_implementation", "_attn_implementation_internal", "_commit_hash", "_name_or_path", "architectures",
    "attn_implementation", "auto_map", "name_or_path", "tokenizer_class", "torchscript", "transformers_version",
    # What a caller of transformers gets besides the logits
    "finetuning_task", "id2label", "is_decoder", "label2id", "num_labels", "prefix", "problem_type", "return_dict",
    "task_specific_params", "use_bfloat16",
    # Token ids that no answer depends on
    "bos_token_id", "decoder_start_token_id", "pad_token_id", "sep_token_id",
    # Without use_sliding_window, which is refused
    "max_window_layers", "sliding_window",
    # Training
    "attention_dropout", "freeze_backbone", "freeze_mm_mlp_adapter", "gradient_checkpointing", "initializer_range",
    "mm_projector_lr", "mm_tunable_parts", "mm_vision_tower_lr", "pretrain_mm_mlp_adapter", "training_stage",
    "tune_mm_mlp_adapter", "tune_mm_vision_resampler", "unfreeze_mm_vision_tower",
    # Stored in the released configs, read by nothing at inference
    "_vit_attn_implementation", "frame_max_pixels", "image_aspect_ratio", "image_grid_pinpoints", "language",
    "llm_name", "max_pixels", "max_tile_num", "min_tile_num", "mm_use_im_patch_token",
    "mm_vision_select_layer", "mm_vision_siglip_select_layer", "pool_out_size",
})  # fmt: skip

# Keys of generation_config.json; transformers 4 wrote some of these into config.json.
GENERATION_SUPPORTED: dict[str, tuple[tuple[object, ...], str]] = {
    "bad_words_ids": ((None, []), "words that may not be said"),
    "begin_suppress_tokens": ((None, []), "tokens that may not be said"),
    "cache_implementation": ((None, "dynamic", "static"), "another KV cache"),
    "constraints": ((None, []), "words that must be said"),
    "dola_layers": ((None,), "contrasting layers"),
    "encoder_no_repeat_ngram_size": ((None, 0), "no repetition of the question"),
    "encoder_repetition_penalty": ((None, 1), "a penalty on other words than the question's"),
    "exponential_decay_length_penalty": ((None,), "a penalty on long answers"),
    "force_words_ids": ((None, []), "words that must be said"),
    "forced_bos_token_id": ((None,), "a token that must come first"),
    "forced_eos_token_id": ((None, []), "a token that must come last"),
    "guidance_scale": ((None, 1), "guidance"),
    "max_time": ((None,), "a limit on time"),
    "min_length": ((None, 0), "a least length"),
    "min_new_tokens": ((None, 0), "a least length"),
    "no_repeat_ngram_size": ((None, 0), "no repetition of word groups"),
    "num_beam_groups": ((None, 1), "beam search"),
    "num_beams": ((None, 1), "beam search"),
    "num_return_sequences": ((None, 1), "several answers"),
    "penalty_alpha": ((None, 0), "contrastive search"),
    "remove_invalid_values": ((None, False), "going on after a NaN"),
    "sequence_bias": ((None, {}, []), "a bias on words"),
    "stop_strings": ((None, []), "words that end the answer"),
    "suppress_tokens": ((None, []), "tokens that may not be said"),
    "token_healing": ((None, False), "another end of the prompt"),
    "watermarking_config": ((None,), "a watermark"),
}

GENERATION_IGNORED = frozenset({
    # What the reference sets itself: greedy, without a penalty, up to a length that the caller names
    "do_sample", "max_length", "max_new_tokens", "repetition_penalty",
    # Options of sampling and beam search, which greedy decoding does not do
    "diversity_penalty", "early_stopping", "epsilon_cutoff", "eta_cutoff", "length_penalty", "min_p",
    "renormalize_logits", "temperature", "top_h", "top_k", "top_p", "typical_p",
    # Speed and memory: the answer is the same
    "assistant_confidence_threshold", "assistant_early_exit", "assistant_ensemble_weight", "assistant_lookbehind",
    "cache_config", "compile_config", "continuous_batching_config", "disable_compile", "is_assistant", "low_memory",
    "max_cache_len", "max_matching_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "prefill_chunk_size", "prompt_lookup_num_tokens", "speculation_type", "target_lookbehind", "use_cache", "use_mtp",
    # What a caller gets besides the tokens, ids that no answer depends on, and who wrote the file
    "_from_model_config", "bos_token_id", "decoder_start_token_id", "output_attentions", "output_hidden_states",
    "output_logits", "output_scores", "pad_token_id", "return_dict_in_generate", "transformers_version",
})  # fmt: skip

_ROPE_KEYS = ("rope_parameters", "rope_scaling")
_ROPE_DEFAULTS: dict[str, object] = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1}


def check_keys(
    values: Mapping[str, Any],
    where: object,
    supported: Mapping[str, tuple[tuple[object, ...], str]],
    known: Set[str],
) -> None:
    """Refuses a value that is not supported, and a key that is not known.

    Args:
        values: The content of the file.
        where: The file, for messages.
        supported: Keys of which only some values are supported.
        known: Keys that are read elsewhere or change nothing.

    Raises:
        CheckpointError: A value or a key is refused; the message names the key.
    """
    for key, value in values.items():
        if key in supported:
            accepted, meaning = supported[key]
            if not any(_equal(value, one) for one in accepted):
                only = " or ".join(repr(one) for one in accepted)
                raise CheckpointError(f"{where}: {key} = {shown(value)} ({meaning}) is not supported, only {only}.")
        elif key not in known:
            raise CheckpointError(
                f"{where}: the key {shown(key)} is not known and may change what the model computes; "
                "remove it if it does not."
            )


def read_rope_theta(values: Mapping[str, Any], where: object) -> Any:
    """Reads the base of the rotary embedding from `rope_theta`, or from where transformers 5 keeps it.

    Args:
        values: The content of config.json.
        where: The file, for messages.

    Returns:
        The base, or None where neither place has it.

    Raises:
        CheckpointError: Positions are to be scaled, or the two places disagree.
    """
    found = [values["rope_theta"]] if values.get("rope_theta") is not None else []
    for key in _ROPE_KEYS:
        rope = values.get(key)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise CheckpointError(f"{where}: {key} = {shown(rope)} is not an object.")
        for name, value in rope.items():
            if name == "rope_theta":
                found.append(value)
            elif name not in _ROPE_DEFAULTS or not _equal(value, _ROPE_DEFAULTS[name]):
                raise CheckpointError(
                    f"{where}: {key}.{shown(name)[1:-1]} = {shown(value)} is not supported: positions are rotated as "
                    "they are (rope_type 'default')."
                )
    if any(value != found[0] for value in found):
        raise CheckpointError(f"{where}: rope_theta is given as {' and as '.join(map(shown, found))}.")
    return found[0] if found else None


def check_layer_types(values: Mapping[str, Any], where: object) -> None:
    """Checks that every layer attends to all positions before it.

    Args:
        values: The content of config.json.
        where: The file, for messages.

    Raises:
        CheckpointError: A layer does not, or there are more or fewer types than layers.
    """
    types = values.get("layer_types")
    if types is None:
        return
    if not isinstance(types, list) or any(kind != "full_attention" for kind in types):
        raise CheckpointError(f"{where}: layer_types = {shown(types)}: a layer other than 'full_attention'.")
    if len(types) != values.get("num_hidden_layers"):
        raise CheckpointError(f"{where}: layer_types names {len(types)} layers, not num_hidden_layers.")


def _equal(value: object, accepted: object) -> bool:
    """Whether two values are equal as JSON; unlike in Python, true is not 1."""
    return value == accepted and isinstance(value, bool) == isinstance(accepted, bool)
