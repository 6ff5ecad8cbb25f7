"""What tests of programs that use tensorlogic need; fixtures for pytest are in `fixtures`.

>>> from tensorlogic.testing import assert_close
"""

from tensorlogic.testing.compare import assert_close

__all__ = ["assert_close"]
