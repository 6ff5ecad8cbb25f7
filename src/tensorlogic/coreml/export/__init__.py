"""Traced functions as ML programs; coremltools (extra `coreml`) writes them."""
