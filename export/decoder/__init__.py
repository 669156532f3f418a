"""The decoder's file in a bundle: layout, writer and reader."""
