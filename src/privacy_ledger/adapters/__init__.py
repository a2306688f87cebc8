"""What touches the outside: logs, keystore, formats, codec, clock, randomness."""
