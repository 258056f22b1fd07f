"""The hooks of Intel's manager that pruning has no use for."""

from typing import Any


class UnusedHooks:
    """Accepts the calls of hooks that other kinds of compression need."""

    def on_step_end(self) -> None:
        """Does nothing."""

    def on_after_compute_loss(
        self,
        input: Any,
        student_output: Any,
        student_loss: Any,
        teacher_output: Any = None,
    ) -> Any:
        """Returns the loss unchanged."""
        return student_loss

    def on_before_eval(self) -> None:
        """Does nothing."""

    def on_after_eval(self) -> None:
        """Does nothing."""
