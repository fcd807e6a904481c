"""The steps: pure functions from records and rows to effects."""
