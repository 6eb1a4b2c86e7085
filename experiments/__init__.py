"""Scripts that train, record and measure what the project claims; each folder has a README with its command."""
