"""Embedding stores: AnnData on disk, written shard by shard and read lazily."""
