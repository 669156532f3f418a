"""The self-test that a bundle carries: a picture, a question and what the exporter computed."""
