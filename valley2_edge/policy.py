"""What a session decides about pictures: policy, tiling and Eagle caps (docs/valley2.md, "Policies").

`runtime/core/picture_policy.py` has what the core makes of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from valley2_edge.errors import OptionError
from valley2_edge.options import EAGLE_MAX_TOKENS, EaglePreset, PictureOptions, PolicyName

EAGLE_MIN_TOKENS = 4
REPO_PICTURE_LIMIT = 8

EAGLE_CAPS: dict[EaglePreset, int] = {"fast": 256, "balanced": 729, "document": 1280, "full": EAGLE_MAX_TOKENS}
"""Tokens of a picture that is the only one of its turn."""
_SEVERAL_CAPS: dict[EaglePreset, int] = {**EAGLE_CAPS, "balanced": 196}
_REFERENCE_CAPS: dict[PolicyName, int] = {"hub": EAGLE_MAX_TOKENS, "repo": 1280}


@dataclass(frozen=True)
class Policy(PictureOptions):
    """The choices of one session that change which pictures the model sees, and how."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.eagle_tokens(several=False)
        if low > high:
            raise OptionError("eagle_min_tokens", f"is {low}, more than the cap of {high} Eagle tokens.")

    @classmethod
    def of_reference(cls, policy: PolicyName) -> Policy:
        """The policy exactly as the reference runs it: strict, with the reference's own Eagle cap."""
        return cls(policy=policy, strict=True, eagle_preset="full", eagle_max_tokens=_REFERENCE_CAPS[policy])

    def eagle_tokens(self, several: bool) -> tuple[int, int]:
        """The least and the most Eagle tokens of one picture.

        Args:
            several: The picture is one of several, or a frame of a video.
        """
        caps = _SEVERAL_CAPS if several else EAGLE_CAPS
        high = caps[self.eagle_preset] if self.eagle_max_tokens is None else self.eagle_max_tokens
        if self.eagle_min_tokens is None:
            return min(EAGLE_MIN_TOKENS, high), high
        # A minimum that the caller names lifts a preset's cap.
        return self.eagle_min_tokens, high if self.eagle_max_tokens is not None else max(high, self.eagle_min_tokens)

    def picture_limit(self) -> int | None:
        """Most pictures of one turn; the rest is left out. None means that there is no limit.

        DIFFERS: only strict repo leaves pictures out after the eighth, as the reference does in silence.
        """
        return REPO_PICTURE_LIMIT if self.policy == "repo" and self.strict else None
