"""`make bench`: what the platform costs, measured on real servers on this machine.

A benchmark is an async function in a module of this package, marked by `@bench`; adding the module
is all there is to do.
"""
