"""Whether a device computes what the processor computes, and what it may keep on the disk."""
