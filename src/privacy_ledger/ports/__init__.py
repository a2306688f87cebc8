"""Protocols only: what the application and the engine need from the outside."""
