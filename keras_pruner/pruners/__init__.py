"""Pruners compose the maths and own the state."""

from keras_pruner.config import PRUNERS, register_pruner
from keras_pruner.pruners.base import BasePruner, refuse_at_init_only
from keras_pruner.pruners.group import PrunerGroup, create_pruners
from keras_pruner.pruners.keras_base import KerasBasePruner
from keras_pruner.pruners.kernel_changes import count_zeros
from keras_pruner.pruners.loop.saved_state import load_state, state_of
from keras_pruner.pruners.mask_updater import NonFiniteError
from keras_pruner.pruners.methods.gradual.basic import BasicPruner
from keras_pruner.pruners.methods.gradual.block_mask import BlockMaskPruner
from keras_pruner.pruners.methods.gradual.lottery_ticket import LotteryTicket
from keras_pruner.pruners.methods.gradual.pattern_lock import PatternLock
from keras_pruner.pruners.methods.gradual.progressive import Progressive
from keras_pruner.pruners.methods.gradual.retrain_free import RetrainFreePruner
from keras_pruner.pruners.methods.hidden_weights.learned_threshold import STR
from keras_pruner.pruners.methods.hidden_weights.soft_threshold import ST3, Feather
from keras_pruner.pruners.methods.hidden_weights.straight_through import SRSTE, STE
from keras_pruner.pruners.methods.hidden_weights.top_kast import TopKAST
from keras_pruner.pruners.methods.regrowing.acdc import ACDC
from keras_pruner.pruners.methods.regrowing.dynamic import DynamicPruner
from keras_pruner.pruners.methods.regrowing.rigl import RigL
from keras_pruner.pruners.methods.regrowing.set import SET
from keras_pruner.pruners.moments import source_of_scores
from keras_pruner.pruners.scheduler import Pace, PruningScheduler, derive_steps
from keras_pruner.pruners.training_rule import StateSpec, TrainingRule
from keras_pruner.pruners.training_step import GRADIENT_SUM, TrainedKernel, TrainingStep

__all__ = [
    "ACDC",
    "BasePruner",
    "BasicPruner",
    "BlockMaskPruner",
    "DynamicPruner",
    "Feather",
    "GRADIENT_SUM",
    "KerasBasePruner",
    "LotteryTicket",
    "NonFiniteError",
    "PRUNERS",
    "Pace",
    "PatternLock",
    "Progressive",
    "PrunerGroup",
    "PruningScheduler",
    "RetrainFreePruner",
    "RigL",
    "SET",
    "SRSTE",
    "ST3",
    "STE",
    "STR",
    "StateSpec",
    "TopKAST",
    "TrainedKernel",
    "TrainingRule",
    "TrainingStep",
    "count_zeros",
    "create_pruners",
    "derive_steps",
    "load_state",
    "refuse_at_init_only",
    "register_pruner",
    "source_of_scores",
    "state_of",
]
