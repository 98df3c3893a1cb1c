"""Loading a model: the embedded default, a Hugging Face folder or hub id, or a GGUF file."""

from hartley.models.cache import cache_directory
from hartley.models.load import DEFAULT, Model, load
from hartley.models.tokenizer import TextStream, Tokenizer

__all__ = ["DEFAULT", "Model", "TextStream", "Tokenizer", "cache_directory", "load"]
