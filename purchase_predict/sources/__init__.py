"""Where data comes from: local files, Cloud Storage, and the built-in sample."""
