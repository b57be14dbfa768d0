"""Compiled kernels: one module per instruction set level, and `cpu`.

`cpu` says which levels this machine can run. A level module contains instructions of its level from
its first line on, so `fusedloss.backends.compiled` asks before it imports one; nothing else imports
them.
"""
