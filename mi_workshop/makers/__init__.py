"""How the larger files of ``data/`` were made: one module a file, run as ``python -m
mi_workshop.makers.NAME``.

None of it is needed to use the workshop, and none of it runs in CI beyond tests on tiny inputs.
"""
