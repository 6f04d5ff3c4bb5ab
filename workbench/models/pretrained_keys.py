"""Keys of `config.json` that every family has from transformers' PreTrainedConfig, and what becomes of them here.

Some mean nothing to the numbers of a causal language model, but have a type that transformers insists on. Some would
change the numbers and are taken with one value only. The names of methods and internals of the class are refused: a
file that sets them changes transformers itself (`attribute_map` renames other keys). What none of its classes reads
is ignored, with a note.
"""

from __future__ import annotations

from workbench.models.keys import (
    ANYTHING,
    NOTHING,
    NULL,
    OBJECT,
    TEXT,
    TRUTH,
    Key,
    Kind,
    integer,
    list_of,
    number,
    object_of,
    one_of,
    real,
)

_COUNT = integer(-(2**31))
TOKEN_ID = Kind("a token id", _COUNT.holds)
TOKEN_IDS = TOKEN_ID | Kind("a list of token ids", list_of(TOKEN_ID).holds) | NULL
#: How attention is computed, not what.
_EXACT_ATTENTION = one_of("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", None)
_LABELS = Kind(
    "an object of strings by number",
    lambda value: OBJECT.holds(value) and all(str(k).isdecimal() and TEXT.holds(v) for k, v in value.items()),
)
_DTYPE = one_of("float32", "float16", "bfloat16", "float64", None)

#: Checked and without consequence: weights are taken in the type they are stored in, nothing is trained or classified.
WITHOUT_CONSEQUENCE = (
    Key("transformers_version", TEXT | NULL, None),
    Key("name_or_path", ANYTHING, None),
    Key("_name_or_path", ANYTHING, None),
    Key("_commit_hash", ANYTHING, None),
    Key("_attn_implementation_autoset", ANYTHING, None),
    Key(
        "_attn_implementation_internal", ANYTHING, None
    ),  # in files of some versions; transformers drops them
    Key("_experts_implementation_internal", ANYTHING, None),
    Key("auto_map", OBJECT | NULL, None, "its code is never run"),
    Key("dtype", _DTYPE, None),
    Key("torch_dtype", _DTYPE, None),
    Key("use_cache", TRUTH, True),
    Key("initializer_range", real(0, 1), 0.02),
    Key("gradient_checkpointing", TRUTH, False),
    Key("output_hidden_states", TRUTH | NULL, False),
    Key("output_attentions", one_of(False, None), False),
    Key("_output_attentions", one_of(False, None), False),
    Key("tie_last_hidden_states", TRUTH | NULL, None),
    Key("chunk_size_feed_forward", _COUNT, 0),
    Key("attn_implementation", _EXACT_ATTENTION, None),
    Key("_attn_implementation", _EXACT_ATTENTION, None),
    Key("id2label", _LABELS | NULL, None),
    Key("label2id", object_of(_COUNT) | object_of(TEXT) | NULL, None),
    Key("num_labels", integer(1, 1_000_000) | NULL, None),
    Key("bos_token_id", TOKEN_ID | NULL, 1),
    Key("eos_token_id", TOKEN_IDS, 2),
    Key("sep_token_id", TOKEN_ID | NULL, None),
    Key("attention_dropout", number(0, 1) | NULL, 0.0),
    Key("pretraining_tp", _COUNT | NULL, 1),
    Key("problem_type", NULL, None, "a classifier, not a language model"),
    Key("tokenizer_class", TEXT | NULL, None),
)

_LANGUAGE_MODEL = "a decoder of text alone"
_SAME_LAYERS = "all layers are alike"
#: Taken with the one value that leaves the computation as it is.
WITH_ONE_VALUE = (
    Key("is_causal", one_of(True), True, "attention looks back"),
    Key("is_encoder_decoder", one_of(False), False, _LANGUAGE_MODEL),
    Key("return_dict", one_of(True), True),
    Key("attention_chunk_size", NULL, None, "attention looks back to the beginning"),
    Key("per_layer_config", NULL, None, _SAME_LAYERS),
    Key("skip", NULL, None, _SAME_LAYERS),
    Key("kv_sharing_modes", NULL, None, "every layer has a cache of its own"),
    Key("num_mtp_layers", one_of(0, None), None, "one token at a time is predicted"),
    Key("mtp_layer_types", NULL, None, "one token at a time is predicted"),
    *(
        Key(name, NULL, None, _LANGUAGE_MODEL)
        for name in ("text_config", "decoder", "generator", "text_encoder")
    ),
    Key("quantization_config", NULL, None, "weights are f32, f16 or bf16"),
    Key("transformers_weights", NULL, None, "weights are in model.safetensors, or in shards with an index"),
    Key("configuration_files", NULL, None, "the configuration is config.json"),
    *(
        Key(name, NULL, None, "transformers' own choice")
        for name in (
            "fusion_config",
            "distributed_config",
            "experts_implementation",
            "_experts_implementation",
        )
    ),
)

#: Attributes of transformers' configuration class: a file that sets one changes how the class reads the others.
_INTERNALS = """
_auto_class _check_received_keys _decode_special_floats _dict_from_json_file
_encode_special_floats _get_config_dict _get_files_timestamps
_get_generation_parameters _getattr_without_heterogeneous_validation _hasattr_without_heterogeneous_validation
_heterogeneity_spec _iter_config_keys_with_heterogeneous_adjustment _post_init_done
_remove_keys_not_serialized _rope_type_labels _update_heterogeneous_to_dict_output _upload_modified_files
_validate_axial_rope_parameters _validate_default_rope_parameters _validate_dynamic_rope_parameters
_validate_linear_rope_parameters _validate_llama3_rope_parameters _validate_longrope_rope_parameters
_validate_proportional_rope_parameters _validate_yarn_rope_parameters allow_global_per_layer_attribute_access
attribute_map base_config_key base_model_ep_plan base_model_fsdp_plan base_model_pp_plan base_model_tp_plan
convert_rope_params_to_dict default_config_fields default_rope_type default_theta dict_dtype_to_str
extra_config_files extra_files from_dict from_json_file from_pretrained get_config_dict get_mtp_config
get_text_config ignore_keys_at_rope_validation is_custom_code is_heterogeneous is_remote_code
nested_rope_parameter_keys per_layer_attributes push_to_hub register_for_auto_class save_pretrained
serialize_explicit_per_layer_config standardize_rope_params sub_configs sub_configs_defaults
to_dict to_diff_dict to_json_file to_json_string update update_from_string use_return_dict validate
validate_architecture validate_layer_type validate_output_attentions validate_rope validate_token_ids
__class__ __dict__
"""
INTERNALS = tuple(
    Key(name, NOTHING, None, "a part of transformers' own class") for name in _INTERNALS.split()
)

_NUMBERS = """
assistant_confidence_threshold diversity_penalty encoder_repetition_penalty epsilon_cutoff eta_cutoff guidance_scale
length_penalty min_p repetition_penalty temperature top_h top_p typical_p
"""
_LIMITS = """
assistant_lookbehind encoder_no_repeat_ngram_size max_length max_time min_length min_new_tokens
no_repeat_ngram_size num_assistant_tokens num_beam_groups num_beams prompt_lookup_num_tokens target_lookbehind top_k
"""
_SWITCHES = """
do_sample output_logits output_scores remove_invalid_values renormalize_logits return_dict_in_generate
"""
_MACHINERY = """
assistant_early_exit assistant_ensemble_weight cache_config cache_implementation compile_config
continuous_batching_config is_assistant max_cache_len sequence_bias stop_strings token_healing watermarking_config
"""
_SETTING = number(-1e6, 1e6) | NULL
_LIMIT = integer(0) | NULL
_IDS = list_of(TOKEN_ID) | NULL
#: Settings of text generation in files that are older than generation_config.json. They are options of a call here.
GENERATION = (
    *(Key(name, _SETTING, None) for name in _NUMBERS.split()),
    *(Key(name, _LIMIT, None) for name in _LIMITS.split()),
    *(Key(name, TRUTH | NULL, None) for name in _SWITCHES.split()),
    *(Key(name, _IDS, None) for name in ("suppress_tokens", "begin_suppress_tokens")),
    Key("max_new_tokens", integer(1) | NULL, None),
    Key("bad_words_ids", list_of(list_of(TOKEN_ID)) | NULL, None),
    Key("early_stopping", one_of(True, False, "never", None), None),
    Key("num_return_sequences", one_of(1, None), None, "one text at a time"),
    Key("forced_bos_token_id", TOKEN_ID | NULL, None),
    Key("forced_eos_token_id", TOKEN_IDS, None),
    Key("exponential_decay_length_penalty", list_of(_SETTING) | NULL, None),
    Key("num_assistant_tokens_schedule", one_of("constant", "heuristic", "heuristic_transient", None), None),
    *(Key(name, NULL, None, "texts are generated with the options of a call") for name in _MACHINERY.split()),
)

PRETRAINED_KEYS = (*WITHOUT_CONSEQUENCE, *WITH_ONE_VALUE, *INTERNALS, *GENERATION)
