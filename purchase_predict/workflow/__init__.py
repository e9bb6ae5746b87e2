"""What an MLflow run is here: opened, keyed, completed, found again, waited for; never a table."""
