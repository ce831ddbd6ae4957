from tools.simulator.command import simulate

simulate()
