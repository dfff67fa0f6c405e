"""The models of one process, loaded by their references, the default first."""

import logging

from service.config import Settings
from service.errors import ConfigurationError
from service.models.store import LoadedModel, load_model

_log = logging.getLogger(__name__)


def load_models(settings: Settings, measure: bool = False) -> dict[str, LoadedModel]:
    """Every model that the settings name, by name; lanes and threads of all are the first's.

    Args:
        settings: frozen.
        measure: choose arrangements by measuring, where none is kept yet.

    Raises:
        ConfigurationError: one that cannot be loaded, a name twice, or a default sigma that the
            first does not have.
    """
    models: dict[str, LoadedModel] = {}
    for reference in (settings.model, *settings.extra_models):
        try:
            model = load_model(reference, settings, measure)
        except OSError as error:
            raise ConfigurationError(f"cannot load {reference!r}: {error}") from error
        if model.name in models:
            raise ConfigurationError(
                f"two models are called {model.name!r}; add one under another name:"
                f" fcs models add {reference} --name ..."
            )
        models[model.name] = model
        shared = {"lanes": model.lanes, "threads": model.threads}
        settings = settings.model_copy(update=shared)  # the lanes of one process serve all models
        _log.info("loaded %s (%s)", model.name, model.revision)
    first = next(iter(models.values()))
    if settings.default_sigma not in (None, *first.sigmas):
        raise ConfigurationError(
            f"default_sigma {settings.default_sigma} is not a noise level of"
            f" {first.name}: {', '.join(f'{s:g}' for s in first.sigmas)}"
        )
    return models
