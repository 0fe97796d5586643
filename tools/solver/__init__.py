"""What `bench_solver.py` measures, one module per part."""
