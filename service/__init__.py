"""fcs-serve: robust image embeddings, each with its certified feature cosine similarity bound."""

from importlib.metadata import version

__version__ = version("fcs-serve")
