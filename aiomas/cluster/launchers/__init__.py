"""Launchers put the processes of a cluster on a host."""
