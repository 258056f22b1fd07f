"""Pruners: compose the maths and own the state. One file each."""

from keras_pruner.pruners.acdc import ACDC
from keras_pruner.pruners.base import PRUNERS, BasePruner, register_pruner
from keras_pruner.pruners.basic import BasicPruner
from keras_pruner.pruners.block_mask import BlockMaskPruner
from keras_pruner.pruners.create import create_pruners
from keras_pruner.pruners.dynamic import DynamicPruner
from keras_pruner.pruners.keras_base import KerasBasePruner
from keras_pruner.pruners.lottery_ticket import LotteryTicket
from keras_pruner.pruners.pattern_lock import PatternLock
from keras_pruner.pruners.progressive import Progressive
from keras_pruner.pruners.retrain_free import RetrainFreePruner
from keras_pruner.pruners.rigl import RigL
from keras_pruner.pruners.set import SET
from keras_pruner.pruners.soft_threshold import STR
from keras_pruner.pruners.straight_through import SRSTE, STE
from keras_pruner.pruners.top_kast import TopKAST

__all__ = [
    "ACDC",
    "PRUNERS",
    "SET",
    "SRSTE",
    "STE",
    "STR",
    "BasePruner",
    "BasicPruner",
    "BlockMaskPruner",
    "DynamicPruner",
    "KerasBasePruner",
    "LotteryTicket",
    "PatternLock",
    "Progressive",
    "RetrainFreePruner",
    "RigL",
    "TopKAST",
    "create_pruners",
    "register_pruner",
]
