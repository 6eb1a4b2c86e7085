"""Local routing consistency: SRP, SCH, and what experts specialise in."""
