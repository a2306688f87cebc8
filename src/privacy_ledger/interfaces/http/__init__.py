"""The HTTP service: what platform services post becomes sealed records, or a reason code for each."""
