"""A small model that anybody can train: the text that every Python installation ships, its tokenizer, an n-gram baseline."""
