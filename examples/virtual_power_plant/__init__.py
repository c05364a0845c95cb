"""A virtual power plant: hundreds of agents agree on what their energy units do tomorrow."""
