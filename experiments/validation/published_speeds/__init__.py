"""Decode speeds that others published, beside what `lrcsim plan` says for the same setting."""
