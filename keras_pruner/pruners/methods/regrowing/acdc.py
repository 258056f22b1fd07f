from keras_pruner.config import register_pruner
from keras_pruner.pruners.keras_base import KerasBasePruner
from keras_pruner.pruners.scheduler import Pace


@register_pruner("acdc")
class ACDC(KerasBasePruner):
    """Alternates compressed and decompressed phases.

    Training begins dense. One update prunes to the schedule's sparsity. The next frees
    all weights, which restart at zero with empty optimizer slots, and so on. The last
    update prunes to the target. With `schedule="constant"`, as published, every
    compressed phase has the target sparsity. If the steps are open, there are about ten
    phases.

    References:
        [AC/DC, Peste et al., 2021](https://arxiv.org/abs/2106.12379)
    """

    takes_overlaps = False
    default_criterion = "magnitude"
    default_schedule = "polynomial"
    clears_slots = True
    keeps_zeros = False
    pace = Pace(num_updates=10, max_steps_apart=None)

    def sparsity_at(self, step: int) -> float:
        scheduler = self.scheduler
        phases_left = (scheduler.last_update - step) // scheduler.frequency
        warms_up = step == scheduler.begin and phases_left > 0
        if warms_up or phases_left % 2:
            return 0.0
        return scheduler(step)
