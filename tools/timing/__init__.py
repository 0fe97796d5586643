"""How fast files run: what `bench_latency.py` measures and where."""
