"""What people read about a model: its training report, its model card, and the pages about promotion and drift."""
