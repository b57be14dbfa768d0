"""Compiled kernels: one module per instruction set level, and `cpu`, which says which of them this machine can run.

Only `fusedloss.backends.compiled` imports them. A level module contains instructions of its level from its first line
on, so none may be imported before `cpu.detected_isa()` has allowed it.
"""
