"""How fast `beit` is beside its peers, on one machine: `benchmarks/run`."""
