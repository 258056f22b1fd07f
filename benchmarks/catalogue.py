"""Small models of every kind that Keras and KerasHub have, with random weights."""

import inspect

import keras

# Smallest sizes that all of `keras.applications` take, rounded up for speed.
IMAGE_SIZES = {
    "InceptionV3": 75,
    "InceptionResNetV2": 75,
    "Xception": 71,
    "NASNetLarge": 32,
    "NASNetMobile": 32,
}


def applications():
    """Returns a dict from the name of each model in `keras.applications` to it.

    The public namespace is walked, so a model that is new to Keras is in it.

    Returns:
        Dict from a name to a function without arguments that builds the model.
    """
    return {
        name: lambda name=name, make=make: make(
            weights=None,
            classes=10,
            input_shape=(IMAGE_SIZES.get(name, 32),) * 2 + (3,),
        )
        for name, make in sorted(vars(keras.applications).items())
        if inspect.isfunction(make)
    }


TEXT = {"vocabulary_size": 50, "num_layers": 2, "hidden_dim": 32, "dropout": 0.1}
ENCODER = TEXT | {"num_heads": 2, "intermediate_dim": 64}
SHORT = ENCODER | {"max_sequence_length": 16}
DECODER = TEXT | {
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_dim": 64,
}
EXPERTS = DECODER | {"num_experts": 4, "top_k": 2}
IMAGE = {"image_shape": (32, 32, 3)}
PATCHES = IMAGE | {
    "patch_size": 8,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 32,
}
T5_GEMMA = {
    f"{side}_{key}": value
    for side in ("encoder", "decoder")
    for key, value in {
        "hidden_dim": 32,
        "intermediate_dim": 64,
        "num_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    }.items()
} | {"vocabulary_size": 50, "sliding_window": 4}
RESNET = IMAGE | {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [3],
    "stackwise_num_filters": [64, 64, 64],
    "stackwise_num_blocks": [2, 2, 2],
    "stackwise_num_strides": [1, 2, 2],
    "block_type": "basic_block",
}
SMOL = {
    "vocabulary_size": 50,
    "hidden_dim": 32,
    "intermediate_dim": 64,
    "num_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rope_layer_enabled_list": [True, False],
    "layer_types": ["full_attention", "full_attention"],
    "mlp_bias": False,
    "layer_norm_epsilon": 1e-6,
    "max_position_embeddings": 32,
    "rope_theta": 1e4,
    "partial_rotary_factor": 1.0,
}

# Name of a KerasHub backbone -> its arguments.
BACKBONES = {
    "AlbertBackbone": SHORT | {"embedding_dim": 16},
    "BartBackbone": SHORT,
    "BertBackbone": SHORT,
    "BloomBackbone": ENCODER,
    "CSPNetBackbone": IMAGE
    | {
        "stem_filters": 16,
        "stem_kernel_size": 3,
        "stem_strides": 1,
        "stackwise_depth": [1, 2],
        "stackwise_strides": [2, 2],
        "stackwise_num_filters": [32, 64],
        "block_type": "dark_block",
        "stage_type": "dark",
    },
    "DINOV2Backbone": PATCHES
    | {"intermediate_dim": 64, "position_embedding_shape": (32, 32, 3)},
    "DINOV3Backbone": PATCHES | {"intermediate_dim": 64},
    "DebertaV3Backbone": SHORT | {"bucket_size": 8},
    "DeiTBackbone": PATCHES | {"intermediate_dim": 64},
    "DenseNetBackbone": IMAGE | {"stackwise_num_repeats": [2, 2], "growth_rate": 16},
    "DistilBertBackbone": SHORT,
    "ESM2Backbone": SHORT,
    "EfficientNetBackbone": {
        "input_shape": (32, 32, 3),
        "stackwise_width_coefficients": [1.0] * 3,
        "stackwise_depth_coefficients": [1.0] * 3,
        "stackwise_kernel_sizes": [3, 3, 5],
        "stackwise_num_repeats": [1, 2, 2],
        "stackwise_input_filters": [16, 16, 24],
        "stackwise_output_filters": [16, 24, 40],
        "stackwise_expansion_ratios": [1, 6, 6],
        "stackwise_squeeze_and_excite_ratios": [0.25] * 3,
        "stackwise_strides": [1, 2, 2],
        "stackwise_block_types": ["v1", "fused", "unfused"],
        "stackwise_force_input_filters": [0] * 3,
        "stackwise_nores_option": [False] * 3,
    },
    "ElectraBackbone": {
        "vocab_size": 50,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 32,
        "embedding_dim": 16,
        "intermediate_dim": 64,
        "max_sequence_length": 16,
    },
    "FNetBackbone": {k: v for k, v in SHORT.items() if k != "num_heads"},
    "FalconBackbone": {
        "vocabulary_size": 50,
        "num_layers": 2,
        "num_attention_heads": 4,
        "hidden_dim": 32,
        "intermediate_dim": 64,
    },
    "GPT2Backbone": SHORT,
    "GPTNeoXBackbone": SHORT,
    "GemmaBackbone": DECODER | {"head_dim": 8},
    "Gemma3Backbone": DECODER | {"head_dim": 8, "image_size": 16},
    "GptOssBackbone": EXPERTS,
    "HGNetV2Backbone": IMAGE
    | {
        "depths": [1, 2],
        "embedding_size": 16,
        "hidden_sizes": [32, 64],
        "stem_channels": [3, 16, 16],
        "hidden_act": "relu",
        "use_learnable_affine_block": False,
        "stackwise_stage_filters": [[16, 16, 32, 1, 2, 3], [32, 16, 64, 2, 2, 3]],
        "apply_downsample": [False, True],
        "use_lightweight_conv_block": [False, True],
    },
    "Llama3Backbone": DECODER,
    "LlamaBackbone": DECODER,
    "MiTBackbone": IMAGE
    | {
        "layerwise_depths": [1, 1],
        "num_layers": 2,
        "layerwise_num_heads": [1, 2],
        "layerwise_sr_ratios": [2, 1],
        "max_drop_path_rate": 0.1,
        "layerwise_patch_sizes": [7, 3],
        "layerwise_strides": [4, 2],
        "hidden_dims": [16, 32],
    },
    "MistralBackbone": DECODER,
    "MixtralBackbone": EXPERTS,
    "MobileNetBackbone": IMAGE
    | {
        "stackwise_expansion": [[40, 56], [64, 144]],
        "stackwise_num_blocks": [2, 2],
        "stackwise_num_filters": [[16, 16], [24, 24]],
        "stackwise_kernel_size": [[3, 3], [5, 5]],
        "stackwise_num_strides": [[2, 1], [2, 1]],
        "stackwise_se_ratio": [[None, None], [0.25, 0.25]],
        "stackwise_activation": [["relu", "relu"], ["hard_swish"] * 2],
        "stackwise_padding": [[1, 1], [2, 2]],
        "output_num_filters": 64,
        "depthwise_filters": 8,
        "depthwise_stride": 2,
        "depthwise_residual": False,
        "squeeze_and_excite": 0.5,
        "last_layer_filter": 64,
    },
    "MoonshineBackbone": {
        "vocabulary_size": 50,
        "filter_dim": 32,
        "encoder_num_layers": 2,
        "decoder_num_layers": 2,
        "hidden_dim": 32,
        "intermediate_dim": 64,
        "encoder_num_heads": 4,
        "decoder_num_heads": 4,
    },
    "OPTBackbone": SHORT,
    "PaliGemmaBackbone": DECODER
    | {
        "head_dim": 8,
        "image_size": 16,
        "vit_patch_size": 8,
        "vit_num_heads": 2,
        "vit_hidden_dim": 16,
        "vit_num_layers": 2,
    },
    "Phi3Backbone": DECODER | {"max_sequence_length": 16},
    "Qwen3Backbone": DECODER | {"head_dim": 8},
    "Qwen3MoeBackbone": EXPERTS | {"head_dim": 8, "moe_intermediate_dim": 32},
    "Qwen3_5Backbone": DECODER
    | {
        "head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"],
        "partial_rotary_factor": 0.5,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "QwenBackbone": DECODER,
    "QwenMoeBackbone": EXPERTS
    | {"moe_intermediate_dim": 32, "shared_expert_intermediate_dim": 32},
    "RWKV7Backbone": {
        "hidden_size": 32,
        "head_size": 8,
        "num_layers": 2,
        "vocabulary_size": 50,
        "intermediate_dim": 64,
        "gate_lora": 16,
        "mv_lora": 8,
        "aaa_lora": 8,
        "decay_lora": 8,
    },
    "ResNetBackbone": RESNET,
    "RobertaBackbone": SHORT,
    "RoformerV2Backbone": ENCODER | {"head_size": 16},
    "SmolLM3Backbone": SMOL,
    "SwinTransformerBackbone": IMAGE
    | {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    "T5Backbone": ENCODER,
    "T5GemmaBackbone": T5_GEMMA,
    "VGGBackbone": IMAGE
    | {"stackwise_num_repeats": [1, 2], "stackwise_num_filters": [16, 32]},
    "ViTBackbone": PATCHES | {"mlp_dim": 64},
    "ViTDetBackbone": IMAGE
    | {
        "hidden_size": 32,
        "num_layers": 2,
        "intermediate_dim": 64,
        "num_heads": 2,
        "global_attention_layer_indices": [1],
        "patch_size": 8,
        "num_output_channels": 16,
        "window_size": 2,
    },
    "WhisperBackbone": ENCODER
    | {"max_encoder_sequence_length": 16, "max_decoder_sequence_length": 16},
    "XLMRobertaBackbone": SHORT,
    "XLNetBackbone": ENCODER,
    "XceptionBackbone": IMAGE
    | {
        "stackwise_conv_filters": [[16, 16], [32, 32], [64, 64]],
        "stackwise_pooling": [True, True, False],
    },
}


def backbones():
    """Returns a dict from the name of each KerasHub backbone to its builder.

    Returns:
        As `applications`; empty if KerasHub is not installed.
    """
    try:
        import keras_hub
    except ImportError:
        return {}
    models = keras_hub.models
    made = {
        name: lambda name=name, arguments=arguments: getattr(models, name)(**arguments)
        for name, arguments in BACKBONES.items()
    }
    return made | _composed(models)


def _composed(models):
    """Returns builders of backbones that are made of other backbones."""

    def image_encoder():
        return models.ResNetBackbone(**RESNET)

    return {
        "DeepLabV3Backbone": lambda: models.DeepLabV3Backbone(
            image_encoder=image_encoder(),
            spatial_pyramid_pooling_key="P4",
            low_level_feature_key="P2",
            upsampling_size=4,
            dilation_rates=[2, 4],
            image_shape=(32, 32, 3),
        ),
        "SegFormerBackbone": lambda: models.SegFormerBackbone(
            image_encoder=models.MiTBackbone(**BACKBONES["MiTBackbone"]),
            projection_filters=16,
        ),
    }
