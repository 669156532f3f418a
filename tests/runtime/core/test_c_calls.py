"""What a caller of the C header may get wrong: every case is a status and a sentence, never a crash."""

from __future__ import annotations
