"""The whole platform in one process, on a clock that jumps and a network that exists only here.

`clock`, `machine`, `network`, `transport` and `loop` are the world that the services run in;
nothing of the services is replaced. What they are told of time, chance and addresses comes from
the world (`environment`), and so one seed gives one run.
"""
