"""Token ids in, token ids out: prefill, decode, sampling. Knows no text and no files."""
