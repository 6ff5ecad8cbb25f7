"""Runs unchanged Metal text on the CPU: see library.py, runtime.c and trace.c."""
