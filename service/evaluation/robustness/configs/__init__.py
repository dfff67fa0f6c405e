"""Configs that come with this package, as YAML."""
