"""Where data comes from: local files, Cloud Storage, file systems that only Spark can reach, the built-in sample."""
