"""`python -m tests.simulation`: the clocks can be replaced before anybody takes hold of them."""

from tests.simulation.clocks import make_replaceable

make_replaceable()

from tests.simulation.command import main  # noqa: E402 - services keep the clocks they find

main()
