"""Runs aiomas under a random load, with faults, for as long as one likes: ``python -m soak``.

What is checked: each call ends as documented and has run as often as its end says; nothing is left
when all is over; memory does not grow.
"""
