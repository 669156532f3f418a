"""Pictures become embeddings: preprocessing, the towers in whatever engine, and a cache of embeddings."""
