"""Pruners compose the maths and own the state."""

from keras_pruner.config import PRUNERS, register_pruner
from keras_pruner.pruners.base import BasePruner, refuse_at_init_only
from keras_pruner.pruners.group import PrunerGroup, create_pruners
from keras_pruner.pruners.keras_base import KerasBasePruner
from keras_pruner.pruners.kernel_changes import count_zeros
from keras_pruner.pruners.loop.saved_state import load_state, state_of
from keras_pruner.pruners.mask_updater import NonFiniteError
from keras_pruner.pruners.methods.acdc import ACDC
from keras_pruner.pruners.methods.basic import BasicPruner
from keras_pruner.pruners.methods.block_mask import BlockMaskPruner
from keras_pruner.pruners.methods.dynamic import DynamicPruner
from keras_pruner.pruners.methods.lottery_ticket import LotteryTicket
from keras_pruner.pruners.methods.pattern_lock import PatternLock
from keras_pruner.pruners.methods.progressive import Progressive
from keras_pruner.pruners.methods.retrain_free import RetrainFreePruner
from keras_pruner.pruners.methods.rigl import RigL
from keras_pruner.pruners.methods.set import SET
from keras_pruner.pruners.methods.soft_threshold import STR
from keras_pruner.pruners.methods.straight_through import SRSTE, STE
from keras_pruner.pruners.methods.top_kast import TopKAST
from keras_pruner.pruners.scheduler import Pace, PruningScheduler, derive_steps
from keras_pruner.pruners.training_rule import StateSpec, TrainingRule
from keras_pruner.pruners.training_step import GRADIENT_SUM, TrainedKernel, TrainingStep

__all__ = [
    "ACDC",
    "BasePruner",
    "BasicPruner",
    "BlockMaskPruner",
    "DynamicPruner",
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
    "state_of",
]
