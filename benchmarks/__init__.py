"""Speed of this library beside that of others, in one run: `python -m benchmarks [GROUP...]`.

Each competitor (NumPy, PyTorch, MLX, tinygrad, llama.cpp, and the library itself) is a worker
process that takes rows of the table over a pipe (`worker.py`); the harness alternates between them,
compares their results with an oracle in float64 before it believes a time, and measures what the
machine can do at best in every round.
"""
