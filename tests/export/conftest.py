"""Lets the tests of this folder import its helper modules, which pytest's importlib mode leaves to the project."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
