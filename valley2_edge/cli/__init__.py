"""The command `valley2_edge`: one file a command."""
