"""What `one_shot.py` compares: methods, sparsities, patterns, recoveries.

`magnitude`, `wanda`, `dsnot`, `sparsegpt` and `alps` are as published: with the outputs
of the kernel's own dense weights as target, the same sparsity in each kernel, and no
correction of the bias.
`admm` has the defaults of `prune_one_shot`. `admm, uniform` and `admm, owl` divide the
sparsity otherwise, and `sparsegpt, defaults` is SparseGPT with everything else that
`admm` has.

`training` prunes by `PruningCallback` while the dense model trains on, with labels, and
`tfmot` by tensorflow-model-optimization. `one-shot, locked` is `admm`, trained as long
with its zeros locked. `one-shot, on` begins with `admm` at 90 % and reaches the target
in training.
"""

import dataclasses
import itertools

TFMOT = "tfmot"
_PUBLISHED = {"allocation": "uniform"} | dict.fromkeys(
    ("dense_target", "centre", "weigh_outputs"), False
)
_ON = {"resume_from_pruned_checkpoint": True, "initial_sparsity": 0.9}


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of the comparison.

    Args:
        one_shot: Settings of `prune_one_shot`, or `None` if it is not called.
        training: Settings of the `PruningCallback` that then trains, or `None`.
        highest: Most that `prune_one_shot` prunes; training does the rest.
    """

    one_shot: dict | None = None
    training: dict | None = None
    highest: float = 1.0


_NAMES = ("magnitude", "wanda", "dsnot", "sparsegpt", "alps")
METHODS = {name: Method(_PUBLISHED | {"method": name}) for name in _NAMES} | {
    "sparsegpt, defaults": Method({"method": "sparsegpt"}),
    "admm, uniform": Method({"allocation": "uniform"}),
    "admm, owl": Method({"allocation": "owl"}),
    "admm": Method({}),
    "training": Method(training={}),
    TFMOT: Method(training={}),
    "one-shot, locked": Method({}, {"pruning_type": "pattern_lock"}),
    "one-shot, on": Method({}, _ON, highest=0.9),
}
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
PATTERNS = {
    "1x1": SPARSITIES,
    "2:4": (0.5,),
    "4:8": (0.5,),
    "1x4": (0.7, 0.9),
    "channelx1": (0.3, 0.5),
}
RECOVERIES = ("batch_normalization", "distill")


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the comparison, which prints one table for each network.

    Args:
        methods: Names of the methods that it has unless others are asked for.
        patterns: Names of patterns.
        sparsities: Sparsities, or `None` for those of the pattern.
        recoveries: Values of `recovery` in `prune_one_shot`, or `"none"`.
    """

    methods: tuple
    patterns: tuple = ("1x1",)
    sparsities: tuple | None = None
    recoveries: tuple = ("none",)


SECTIONS = {
    "Single weights": Section(tuple(METHODS)[:11]),
    "Patterns": Section(
        ("magnitude", "sparsegpt", "admm", "training"), tuple(PATTERNS)[1:]
    ),
    "Recovery": Section(("magnitude", "sparsegpt", "admm"), recoveries=RECOVERIES),
    "Further": Section(
        ("training", TFMOT, "one-shot, locked", "one-shot, on"),
        sparsities=(0.98, 0.99),
    ),
}
ALL_SPARSITIES = sorted(
    {s for own in PATTERNS.values() for s in own}
    | {s for section in SECTIONS.values() for s in section.sparsities or ()}
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run."""

    section: str
    method: str
    pattern: str
    recovery: str
    sparsity: float
    seed: int

    def one_shot_settings(self):
        """Returns the settings of `prune_one_shot`."""
        method = METHODS[self.method]
        settings = method.one_shot | {"pattern": self.pattern, "seed": self.seed}
        settings["target_sparsity"] = min(self.sparsity, method.highest)
        if self.recovery != "none":
            settings["recovery"] = self.recovery
        return settings

    def training_settings(self):
        """Returns the settings of `PruningCallback`."""
        settings = {"pattern": self.pattern, "target_sparsity": self.sparsity}
        return settings | METHODS[self.method].training


def cell_of(row):
    """Returns the `Cell` of a row of results."""
    return Cell(**{field.name: row[field.name] for field in dataclasses.fields(Cell)})


def dense_cells(options):
    """Returns a `Cell` for the dense model of each seed."""
    return [
        Cell("Dense", "dense", "1x1", "none", 0.0, seed)
        for seed in range(options.seeds)
    ]


def cells_of(options, is_trained, normalizes):
    """Returns the `Cell`s of a network.

    Args:
        options: `sections`, `methods`, `patterns`, `sparsities` and `recovery`: lists
            of names and numbers, or `None` for those of the sections; `seeds`.
        is_trained: Whether the network can be trained further.
        normalizes: Whether it has batch statistics.
    """
    cells = []
    for title in options.sections or SECTIONS:
        section = SECTIONS[title]
        sparsities, recoveries = options.sparsities, options.recovery
        for method, pattern, recovery in itertools.product(
            _asked(section.methods, options.methods),
            _asked(section.patterns, options.patterns),
            _asked(section.recoveries, recoveries and [*recoveries, "none"]),
        ):
            if METHODS[method].training is not None and not is_trained:
                continue
            if recovery == "batch_normalization" and not normalizes:
                continue
            own = section.sparsities or PATTERNS[pattern]
            cells += [
                Cell(title, method, pattern, recovery, sparsity, seed)
                for sparsity in _asked(own, sparsities)
                for seed in range(options.seeds)
            ]
    return cells


def _asked(own, asked):
    return [each for each in own if asked is None or each in asked]
