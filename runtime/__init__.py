"""The Python face of the engine: the native core, the vision engines, sessions, and what they cost."""
