"""Fuzzing: bytes that nobody would send, and what has to hold whatever they are.

``python -m fuzz`` tries inputs that libFuzzer makes up (by way of atheris, on Linux); the inputs in
``fuzz/corpus`` are tried by the test suite, too, on every Python.
"""
