"""What every room stands on: errors, configuration, the database session, checksums and logging."""
