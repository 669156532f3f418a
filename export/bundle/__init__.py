"""Writing a bundle: files that appear whole or not at all, and what every part of it shares."""
