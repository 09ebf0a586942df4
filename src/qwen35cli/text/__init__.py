"""Text in and out: tokenizer, chat format, decoding of streamed tokens, terminal sanitising."""
