"""What a call costs, counted: a guard against changes that make it dearer.

Time is never measured: it depends on the machine and on who else uses it.  What is counted is the
same in every run: tasks, system calls, functions, allocations.  ``limits.toml`` has what was
counted last, for each Python; see there for what the figures are, and ``python -m tests.cost``
for how to count.
"""
