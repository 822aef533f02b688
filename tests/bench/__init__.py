"""Timings, each against the plain method on the same input in one run; no part of `make test`."""
