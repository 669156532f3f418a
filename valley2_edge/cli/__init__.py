"""The command `valley2-edge`: one file a command."""
