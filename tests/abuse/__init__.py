"""Loads of abuse: what hostile clients and origins do to a proxy, one function a load.

Each takes the ``Site`` that it is done to and how often, makes sure that it got the answer it deserves, and leaves
nothing open. Used in a short form by the tests and in a long one by ``make soak``. Everything is on loopback.
"""
