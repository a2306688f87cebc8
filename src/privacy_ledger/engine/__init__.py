"""The engine: cycles, positions, restore and handover. It knows ports and steps, no event type."""
