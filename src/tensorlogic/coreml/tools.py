"""The one place that imports coremltools, which takes a second and prints what it has not found."""

from __future__ import annotations

import importlib
import logging
from typing import Any


def coremltools(purpose: str, instead: str = "") -> Any:
    """The package coremltools. Raises ImportError that says how to install it."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return importlib.import_module("coremltools")
    except ImportError as error:
        hint = f", {instead}" if instead else ""
        raise ImportError(
            f"to {purpose}, install coremltools: pip install 'tensorlogic[coreml]'{hint}"
        ) from error
    finally:
        logger.setLevel(level)
