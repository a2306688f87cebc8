"""What others see of a worker: metrics, health and traces; loaded only where it was asked for."""
