"""Says what to write for names and values of other pruning libraries."""

_TARGET = "`target_sparsity=0.9`, a fraction of weights to zero"
_INITIAL = "`initial_sparsity=0.1`"
_DENSITY = "`target_sparsity=0.9` for a density of 0.1"
_BEGIN = "`begin_step=0`, counted in optimizer updates"
_END = "`end_step=1000`, counted in optimizer updates"
_FREQUENCY = "`frequency=100`, counted in optimizer updates"
_INCLUDE = '`include="dense_.*"`, with regular expressions or layers'
_EXCLUDE = '`exclude="head"`, with regular expressions or layers'
_LAYER_TYPES = '`layer_types=["Dense"]`'
_PATTERN = '`pattern="4x1"`, `pattern="2:4"` or `pattern="1xchannel"`'
_N_OF_M = '`pattern="2:4"`, which prunes 2 of every 4 inputs'
_CRITERION = '`criterion="magnitude"`'
_ALLOCATION = '`allocation="global"` or `allocation="uniform"`'
_SCHEDULE = (
    '`schedule="polynomial"`, with `begin_step=0`, `end_step=1000` and `frequency=100`'
)
_PRUNER = '`pruning_type="rigl"`'
_OPTIONS = '`pruning_type="rigl", pruner_options={"drop_fraction": 0.3}`'
_ENGINE = '`for_engine="litert"`'
_LOCAL = '`local_configs=[{"include": "head", "target_sparsity": 0.5}]`'

# The name in another library -> what to write here. Code stands in backticks.
FOREIGN_NAMES = {
    # tensorflow_model_optimization
    "final_sparsity": _TARGET,
    "block_size": ('`pattern="4x1"` for block_size=(1, 4): outputs first, then inputs'),
    "block_pooling_type": '`group_reduction="mean"` for "AVG", or "max" for "MAX"',
    "pruning_schedule": _SCHEDULE,
    "pruning_policy": _INCLUDE,
    "sparsity_m_by_n": _N_OF_M,
    "m_by_n": _N_OF_M,
    "power": '`schedule={"name": "polynomial", "config": {"power": 3}}`',
    "engine": _ENGINE,
    "runtime": _ENGINE,
    "target_engine": _ENGINE,
    # torch.nn.utils.prune
    "amount": _TARGET,
    "pruning_method": _PRUNER,
    "importance_scores": _CRITERION,
    # Torch-Pruning
    "pruning_ratio": _TARGET,
    "ch_sparsity": '`target_sparsity=0.5` with `pattern="1xchannel"`',
    "pruning_ratio_dict": _LOCAL,
    "ch_sparsity_dict": _LOCAL,
    "max_pruning_ratio": "`max_sparsity=0.95`",
    "max_ch_sparsity": "`max_sparsity=0.95`",
    "global_pruning": _ALLOCATION,
    "ignored_layers": _EXCLUDE,
    "root_module_types": _LAYER_TYPES,
    "importance": _CRITERION,
    "iterative_steps": _FREQUENCY,
    # NNCF
    "sparsity_init": _INITIAL,
    "sparsity_target": _TARGET,
    "pruning_init": _INITIAL,
    "pruning_target": _TARGET,
    "sparsity_level": _TARGET,
    "sparsity_target_epoch": _END,
    "sparsity_freeze_epoch": _END,
    "ignored_scopes": _EXCLUDE,
    "target_scopes": _INCLUDE,
    "filter_importance": _CRITERION,
    "sparsity_level_setting_mode": _ALLOCATION,
    # NNI
    "sparse_ratio": _TARGET,
    "total_sparsity": _TARGET,
    "max_sparsity_per_layer": "`max_sparsity=0.95`",
    "op_types": _LAYER_TYPES,
    "op_partial_names": _INCLUDE,
    "exclude_op_names": _EXCLUDE,
    "granularity": _PATTERN,
    "config_list": _LOCAL,
    # LLM Compressor
    "mask_structure": _N_OF_M,
    "sparsity_profile": _ALLOCATION,
    "targets": _INCLUDE,
    "ignore": _EXCLUDE,
    "init_sparsity": _INITIAL,
    "update_scheduler": _SCHEDULE,
    # JaxPruner
    "algorithm": _PRUNER,
    "dist_type": _ALLOCATION,
    "update_freq": _FREQUENCY,
    "update_start_step": _BEGIN,
    "update_end_step": _END,
    "sparsity_type": _N_OF_M,
    # Other likely guesses.
    "sparsity": _TARGET,
    "ratio": _TARGET,
    "rate": _TARGET,
    "pruning_rate": _TARGET,
    "prune_ratio": _TARGET,
    "prune_amount": _TARGET,
    "target": _TARGET,
    "target_ratio": _TARGET,
    "density": _DENSITY,
    "target_density": _DENSITY,
    "keep_ratio": _DENSITY,
    "start_sparsity": _INITIAL,
    "initial": _INITIAL,
    "start": _BEGIN,
    "begin": _BEGIN,
    "start_epoch": _BEGIN,
    "begin_epoch": _BEGIN,
    "warmup_steps": _BEGIN,
    "end": _END,
    "stop_step": _END,
    "end_epoch": _END,
    "interval": _FREQUENCY,
    "every": _FREQUENCY,
    "update_frequency": _FREQUENCY,
    "layers": _INCLUDE,
    "layer_names": _INCLUDE,
    "modules": _INCLUDE,
    "filters": _INCLUDE,
    "skip": _EXCLUDE,
    "skip_layers": _EXCLUDE,
    "exclude_layers": _EXCLUDE,
    "types": _LAYER_TYPES,
    "block": _PATTERN,
    "structure": _PATTERN,
    "structured": _PATTERN,
    "n_m": _N_OF_M,
    "scope": _ALLOCATION,
    "distribution": _ALLOCATION,
    "scorer": _CRITERION,
    "decay": _SCHEDULE,
    "scheduler": _SCHEDULE,
    "method": _PRUNER,
    "pruner": _PRUNER,
    "pruner_type": _PRUNER,
    "options": _OPTIONS,
    "drop_fraction": _OPTIONS,
    "reduction": '`group_reduction="mean"`',
    "layer_configs": _LOCAL,
}

# Words of other libraries for a component, by field -> the name here.
FOREIGN_VALUES = {
    "pattern": {
        "unstructured": "1x1",
        "element": "1x1",
        "elementwise": "1x1",
        "fine_grained": "1x1",
        "structured": "1xchannel",
        "channel": "1xchannel",
        "channels": "1xchannel",
        "filter": "1xchannel",
        "filters": "1xchannel",
        "output": "1xchannel",
        "input": "channelx1",
        "group": "channel_groups",
        "groups": "channel_groups",
        "channel_group": "channel_groups",
        "coupled_channels": "channel_groups",
        "dependency_graph": "channel_groups",
        "depgraph": "channel_groups",
        "head": "mha",
        "heads": "mha",
        "nm": "2:4",
        "n:m": "2:4",
        "block": "4x1",
    },
    "for_engine": {
        "tensorflow_lite": "litert",
        "tf_lite": "litert",
        "xnnpack": "litert",
        "open_vino": "openvino",
        "trt": "tensorrt",
    },
    "criterion": {
        "l1": "magnitude",
        "l1_norm": "magnitude",
        "l1_unstructured": "magnitude",
        "l2": "magnitude",
        "l2_norm": "magnitude",
        "weight": "magnitude",
        "weights": "magnitude",
        "abs": "magnitude",
        "norm": "magnitude",
        "hessian": "fisher",
        "sensitivity": "snip",
    },
    "allocation": {
        "layerwise": "uniform",
        "per_layer": "uniform",
        "layer": "uniform",
        "er": "erk",
        "erdos_renyi": "erk",
    },
    "schedule": {
        "gradual": "polynomial",
        "agp": "polynomial",
        "cubic": "polynomial",
        "step": "linear",
        "one_shot": "constant",
        "none": "constant",
    },
    "regularizer": {"lasso": "l1", "ridge": "l2", "weight_decay": "l2"},
    "pruning_type": {
        "gradual": "basic",
        "agp": "basic",
        "iterative": "basic",
        "unstructured": "basic",
        "l1_unstructured": "basic",
        "lth": "lottery_ticket",
        "sparse_evolutionary_training": "set",
        "granet": "rigl",
    },
}
