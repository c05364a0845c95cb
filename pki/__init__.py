"""A certificate authority for the machines of a distributed system.

Stands alone: it needs ``cryptography`` (and click for its command), and nothing of aiomas, so that
it can be copied to a machine that is kept off the network. :mod:`pki.authority` makes keys and
certificates (bytes in, bytes out), :mod:`pki.store` keeps them in a directory, and
``python -m pki`` is the command.
"""
