"""How many subscribers the platform holds, and what a thousand gateways ask of what is around them.

`python -m tools.dev.capacity` reckons with the figures in `figures.py` or with yours;
docs/capacity.md says where they come from and what follows.
"""
