"""The HTTP server: takes the shop's events, keeps each visitor's state, and scores each cart event."""
