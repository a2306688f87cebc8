"""Contract suites: what every adapter of a port must do. Inherit one and override its factory."""
