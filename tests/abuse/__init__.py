"""Abusive loads: what hostile clients and origins do to a proxy, one function per load.

Each takes a ``Site`` and the number of repetitions, asserts that it gets the answer it deserves, and leaves nothing
open. The tests run them briefly, ``make soak`` for long. Everything is on loopback.
"""
