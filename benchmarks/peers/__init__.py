"""Measures aiomas against other libraries, in one run: ``make bench-peers``.

:mod:`benchmarks.peers.catalogue` says who is measured in what, ``programs`` holds one small file
for each of them, and the rest runs these and reports.
"""
