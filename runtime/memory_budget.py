"""A limit on the memory of a model: which settings keep it, or what would."""

from __future__ import annotations

from collections.abc import Sequence

from valley2_edge.bundle import Bundle
from valley2_edge.errors import BudgetError
from valley2_edge.options import LoadOptions
from valley2_edge.runtime.core.memory import ANY_PICTURE, MemorySettings, Size, expected_process_bytes
from valley2_edge.runtime.core.memory_choice import MemoryChoice, check_memory, choose_memory
from valley2_edge.runtime.planning import bundle_options

__all__ = ["MemoryBudget", "MemoryChoice"]


class MemoryBudget:
    """The memory that a process may take for one bundle.

    Args:
        bundle: Not loaded yet.
        limit_bytes: Most memory of the whole process; 0: there is no limit.
        load: The options of loading, which say what computes the vision half.
    """

    def __init__(self, bundle: Bundle, limit_bytes: int, load: LoadOptions = LoadOptions()) -> None:
        self._bundle = bundle
        self.limit_bytes = limit_bytes
        self.process_bytes = expected_process_bytes(bundle, load.vision_engine)
        """Expected memory of this process without the model."""

    def choose(
        self,
        wanted: MemorySettings,
        pictures: Sequence[Size] = (ANY_PICTURE,),
        *,
        video: bool = False,
        conversation: bool = True,
    ) -> MemoryChoice:
        """Gives up as little as possible until the plan keeps the budget, in the order of v2e_choose_memory.

        Args:
            wanted: What is asked for; its context and `keep_vision` are given up only where they are 0 and True.
            pictures: Sizes; by default a picture that takes all tiles.
            video: Whether the pictures are frames of a video.
            conversation: Whether pictures may come when the context is full.

        Raises:
            BudgetError: Nothing keeps the budget; the sentence says what would.
            InputError: An option is out of range.
        """
        options = bundle_options(
            self._bundle,
            pictures,
            wanted,
            video=video,
            conversation=conversation,
            process_bytes=self.process_bytes,
        )
        return choose_memory(self._bundle, self.limit_bytes, wanted, options)

    def check(self, pictures: Sequence[Size], settings: MemorySettings, *, video: bool) -> None:
        """Refuses pictures that would break the budget.

        Raises:
            BudgetError: They would; the sentence says by how much.
        """
        try:
            options = bundle_options(
                self._bundle, pictures, settings, video=video, conversation=True, process_bytes=self.process_bytes
            )
        except BudgetError:
            return  # they do not fit the context, which the session says better
        check_memory(self._bundle, self.limit_bytes, options)
