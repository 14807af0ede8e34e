"""Stop a diverged run before it overwrites good weights, and say when a run gets worse while its loss falls."""

import logging
import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping

from torch import Tensor

from alignment.catalogues.optimisers import DivergenceGuard
from alignment.contracts.jobs import CHOSEN_ALARM_STEPS, CHOSEN_CHANGE, CHOSEN_WORSE_STEPS, JobStoppedError

logger = logging.getLogger(__name__)


class DivergenceWatch:
    """Keeps the losses of the window; `losses` and `spikes` restore it from a checkpoint."""

    def __init__(self, guard: DivergenceGuard, losses: Iterable[float] = (), spikes: int = 0) -> None:
        self.guard = guard
        self.losses: deque[float] = deque(losses, maxlen=guard.window_steps)
        self.spikes = spikes

    def observe(self, step: int, loss: float, gradient_norm: float) -> None:
        """Check a step before its update. JobStoppedError (diverged) at a non-finite value or one spike too many."""
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            raise self._stop(step, f"loss {loss} and gradient norm {gradient_norm} are not both finite")
        if len(self.losses) >= self.guard.patience_steps:
            limit = self.guard.spike_factor * statistics.median(self.losses)
            # A median of 0 (prompts whose images all tie have no loss) cannot scale a spike.
            self.spikes = self.spikes + 1 if 0 < limit < loss else 0
            if self.spikes >= self.guard.patience_steps:
                reason = f"loss {loss:.4g} is above {limit:.4g} ({self.guard.spike_factor:g} times the median)"
                raise self._stop(step, f"{reason} for {self.spikes} steps in a row")
        self.losses.append(loss)

    def _stop(self, step: int, reason: str) -> JobStoppedError:
        return _diverged(step, reason)


class ChosenWatch:
    """Counts steps in a row in which the policy predicts the chosen images worse than the reference does.

    Preference losses compare the two sides, so they also fall when both errors rise and the rejected one rises faster:
    loss and accuracy look well, while images get worse. `steps` restores the count from a checkpoint.
    """

    def __init__(self, steps: int = 0) -> None:
        self.steps = steps

    def observe(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the count after this step as a metric, for objectives with a reference; warn when it is too high."""
        if CHOSEN_CHANGE not in metrics:
            return {}
        self.steps = self.steps + 1 if metrics[CHOSEN_CHANGE] > 0 else 0
        if self.steps == CHOSEN_ALARM_STEPS:
            logger.warning(
                "The chosen images have been predicted worse than by the base for %d steps in a row, while the loss"
                " falls. Lower the learning rate or raise beta.",
                self.steps,
            )
        return {CHOSEN_WORSE_STEPS: float(self.steps)}


def check_weights(weights: Iterable[tuple[str, Tensor]], step: int) -> None:
    """Check the weights after the last step, which no loss has tested. JobStoppedError (diverged) names the first that
    has a value that is not finite.
    """
    for name, weight in weights:
        if not bool(weight.isfinite().all()):
            raise _diverged(step, f"weight {name} has values that are not finite")


def _diverged(step: int, reason: str) -> JobStoppedError:
    advice = "The last good checkpoint is kept; lower the learning rate or raise beta"
    return JobStoppedError("diverged", f"Training diverged at step {step}: {reason}. {advice}.", step=step - 1)
