"""Pure values, events and rules: no clock, randomness, environment, logging or await."""
