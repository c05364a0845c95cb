"""Measures aiomas against a raw asyncio baseline, in one run: ``make bench``."""
