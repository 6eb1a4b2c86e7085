"""What the simulator foretells beside what was measured, here and by others; each folder has a README."""
