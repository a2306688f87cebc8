"""Pure stream logic: the same steps run embedded, in the simulator and in the worker on Kafka."""
