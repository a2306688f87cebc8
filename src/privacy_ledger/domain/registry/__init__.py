"""The registry seed: data files of this package, each row with its source and confidence."""
