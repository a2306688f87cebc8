"""Formats that platform services really emit, read as facts: pure, line-tolerant, allow-listed."""
