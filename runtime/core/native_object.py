"""What the Python objects that own a part of the core have in common."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

Owner = TypeVar("Owner", bound="NativeObject")


class NativeObject(ABC):
    """Owns a part of the core until `close`, the end of its `with` statement, or its own end."""

    _handle: Any = None
    """The pointer by which the core knows it; None until it is opened and once it is closed."""

    @property
    def is_open(self) -> bool:
        """Whether `close` is still to come."""
        return self._handle is not None

    @abstractmethod
    def close(self) -> None:
        """Gives back what the core holds for it; may be called again."""

    def __enter__(self: Owner) -> Owner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self, _ends: Callable[[], bool] = sys.is_finalizing) -> None:
        # When the interpreter ends, the modules that a close needs may be gone already.
        if self._handle is not None and not _ends():
            self.close()
