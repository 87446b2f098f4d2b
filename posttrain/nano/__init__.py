"""The nano world: a generated world in which every answer can be checked, and the small base model that knows it."""

from pathlib import Path

BASE_MODEL = Path(__file__).parent / "base"
