"""What the conformance tests share."""

from __future__ import annotations

import tensorlogic.functions  # completes Tensor, however a test makes its tensors
from tensorlogic.testing.fixtures import tl_device as device

__all__ = ["device", "tensorlogic"]
