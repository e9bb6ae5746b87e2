"""One click command per entry point of MLproject."""
