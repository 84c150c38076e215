"""Training a codec: the loop (`trainer`), its loss and trade-off, phases, what trains along."""
