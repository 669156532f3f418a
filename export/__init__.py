"""Build time: a Valley2 checkpoint becomes the files of a bundle."""
