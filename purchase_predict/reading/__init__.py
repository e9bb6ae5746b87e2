"""From a source to typed Parquet, with every malformed row accounted for."""
