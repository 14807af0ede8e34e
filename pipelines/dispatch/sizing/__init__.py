"""Memory, work and pace of a training run, estimated before it starts: weights, activations, cards."""
