"""Defines the part of a training step that acts on one pruned kernel.

A rule is pure maths on tensors; `TrainingStep` runs it around the optimizer's step.
"""

import dataclasses
import json

from keras import ops

from keras_pruner.components import CRITERIA, KnownNorms
from keras_pruner.masks import apply_mask


@dataclasses.dataclass(frozen=True)
class StateSpec:
    """Specifies a state: a tensor that training keeps for a kernel.

    Args:
        shape: Shape of the tensor.
        dtype: Dtype of the tensor.
        initial: `"zeros"`, `"ones"`, or `"weight"` for a copy of the kernel.
    """

    shape: tuple
    dtype: str = "float32"
    initial: str = "zeros"


class TrainingRule:
    """Scores, regularizes and masks a kernel in a training step.

    `shape_gradient` makes the gradient for the optimizer. After the optimizer's step,
    `accumulate` updates the states by the true gradient, `regularize` moves the weights
    towards zero, and `forward_weights` masks them.

    Some rules keep dense weights, in the state `"dense"`. The optimizer steps on these,
    while the kernel's variable holds the masked weights. So the gradient is computed at
    the masked kernel and applied to the dense one.

    Args:
        config: `PruningConfig`, complete.
        kernel: `Kernel`.
        options: Dict of the pruner's options.

    Attributes:
        unit_patterns: Dict from the name of each unit of coupled kernels to the
            `Pattern` that divides this kernel in it, if the regularizer needs it.
    """

    # Whether the rule keeps dense weights, so that a pruned weight has a value.
    keeps_dense = False
    # Whether a state of the rule, besides the criterion's memory, needs gradients.
    observes_gradients = False
    # Whether `forward_weights` only masks; set for every subclass.
    only_masks = True

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "forward_weights" in vars(cls):
            cls.only_masks = False

    def __init__(self, config, kernel, options):
        self.config = config
        self.kernel = kernel
        self.layout = kernel.layout
        self.pattern = config.pattern.groups_of(kernel)
        self.options = options
        self.unit_patterns = {}
        self.criterion, self.regularizer = config.criterion, config.regularizer
        if not kernel.is_scored:
            # Its mask follows from other kernels, so nothing is learned for it.
            self.criterion, self.regularizer = CRITERIA.get("magnitude"), None
        if self.criterion.needs_dense_weights:
            self.keeps_dense = True

    @property
    def needs_gradients(self):
        """Whether the rule reads the true gradient, also of pruned weights."""
        return self.criterion.needs_gradients or self.observes_gradients

    def states(self):
        """Returns a dict from the name of a state to its `StateSpec`."""
        specs = {}
        shape = tuple(self.kernel.variable.shape)
        if self.criterion.keeps_memory:
            kept = "bfloat16" if self.config.low_memory_usage else "float32"
            specs["memory"] = StateSpec(self.memory_shape(), kept)
        if self.keeps_dense:
            dtype = str(self.kernel.variable.dtype)
            specs["dense"] = StateSpec(shape, dtype, "weight")
        if self.config.regularizer is not None and self.config.regularizer.grows:
            # Marks the weights that the target will prune.
            specs["doomed"] = StateSpec(shape, "bool")
            specs["growth"] = StateSpec((), "float32")
        return specs

    def provenance(self):
        """Returns the settings that determine a kernel's mask, as plain values."""
        config = self.config
        made_by = {
            "pruning_type": config.pruning_type,
            "pattern": str(config.pattern),
            "criterion": CRITERIA.serialize(config.criterion),
        }
        return json.loads(json.dumps(made_by, default=str))

    def pool(self, values):
        """Sums a matrix over each group of the pattern."""
        return self.pattern.pool(values, self.layout)

    def memory_shape(self):
        """Returns the stored shape of the criterion's memory."""
        matrix = (self.layout.rows, self.layout.outputs)
        if not self.criterion.pools:
            shape = self.criterion.memory_shape(matrix)
            # The kernel's own shape, so that both can be sharded alike.
            return tuple(self.layout.shape) if shape == matrix else shape
        pooled = self.pool(self.layout.zeros())
        return self.criterion.memory_shape(tuple(pooled.shape))

    def memory_matrix(self, memory):
        """Returns a memory in the shape that the criterion uses, in float32."""
        memory = ops.cast(memory, "float32")
        if self.criterion.pools:
            return memory
        return self.layout.to_matrix(memory)

    def shape_gradient(self, gradient, weight, mask, state, scale):
        """Makes the gradient for the optimizer.

        Args:
            gradient: Tensor of the kernel's shape, scaled like the loss.
            weight: The weights that the optimizer steps on.
            mask: Bool tensor; `True` = keep.
            state: Dict of the kernel's states.
            scale: Factor by which the loss was multiplied.

        Returns:
            Tensor like `gradient`, here zero for pruned weights. So they leave no
            momentum and have no share in a gradient norm.
        """
        return apply_mask(gradient, mask)

    def accumulate(self, state, weight, gradient):
        """Updates the states by the true gradient of an applied step.

        Args:
            state: Dict of the kernel's states.
            weight: Tensor: the weights before the step.
            gradient: Float32 tensor: unscaled, unclipped and unmasked.

        Returns:
            Dict of the states that change.
        """
        if not self.criterion.needs_gradients:
            return {}
        memory = self.criterion.accumulate(
            self.memory_matrix(state["memory"]),
            self.layout.to_matrix(ops.cast(weight, "float32")),
            self.layout.to_matrix(gradient),
            self.pool,
        )
        return {"memory": self.kept_memory(memory, state["memory"])}

    def kept_memory(self, memory, like):
        """Returns a memory in its stored shape and dtype."""
        if not self.criterion.pools:
            memory = self.layout.from_matrix(memory)
        return ops.cast(memory, like.dtype)

    def join_unit(self, name, pattern):
        """Tells that the kernel loses groups with others, divided by a `Pattern`."""
        if self.regularizer is not None and self.regularizer.draws_groups:
            self.unit_patterns[name] = pattern

    def unit_squares(self, weight):
        """Returns a kernel's share in the squared norms that its regularizer needs.

        Args:
            weight: Tensor: the weights after the optimizer's step.

        Returns:
            Dict from the name of a unit of several kernels to a float32 tensor with the
            sum of squares of each group.
        """
        squares = self.layout.to_matrix(ops.square(ops.cast(weight, "float32")))
        return {
            unit: pattern.group_scores(squares, self.layout, "sum")
            for unit, pattern in self.unit_patterns.items()
        }

    def regularize(self, weight, mask, state, rate, norms):
        """Returns the weights after one step towards zero.

        Args:
            weight: Tensor: the weights after the optimizer's step.
            mask: Bool tensor; `True` = keep.
            state: Dict of the kernel's states.
            rate: Float tensor: the learning rate, 0 where no step was applied.
            norms: Dict from the name of a unit to the norms of its groups.
        """
        regularizer = self.regularizer
        if regularizer is None:
            return weight
        amount = (
            ops.convert_to_tensor(rate, "float32") * self.config.regularizer_strength
        )
        if regularizer.grows:
            amount = amount * ops.cast(state["growth"], amount.dtype)
        amount = ops.cast(amount, weight.dtype)
        patterns = [self.pattern]
        if self.unit_patterns:
            patterns = [
                KnownNorms(pattern, norms[unit])
                for unit, pattern in self.unit_patterns.items()
            ]
        matrix = self.layout.to_matrix(weight)
        for pattern in patterns:
            matrix = regularizer.shrink(matrix, amount, self.kernel, pattern)
        shrunk = self.layout.from_matrix(matrix)
        if regularizer.grows:
            return ops.where(ops.convert_to_tensor(state["doomed"]), shrunk, weight)
        return shrunk

    def forward_weights(self, weight, mask, state):
        """Returns the weights that the model computes with.

        Args:
            weight: Tensor: the dense weights if the rule keeps them, else the kernel.
            mask: Bool tensor; `True` = keep.
            state: Dict of the kernel's states.

        Returns:
            Tuple of the kernel's new value and its new mask; `None` keeps the mask.
        """
        return apply_mask(weight, mask), None

    def dense_from_forward(self, value, state):
        """Returns dense weights for which `forward_weights` returns a kernel's value.

        Args:
            value: Tensor: the kernel's value.
            state: Dict of the kernel's states.
        """
        return value
