"""The state of a training run and of its device: phases of a step, memory, use of the arithmetic, sensors."""

__all__ = ["model_flops", "phases", "run_health", "sensors"]
