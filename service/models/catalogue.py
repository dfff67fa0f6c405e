"""The models of one process, loaded by their references, the default first."""

import logging
from dataclasses import replace

from service.config import Settings
from service.errors import ConfigurationError
from service.models.devices import choose_devices
from service.models.loaded import LoadedModel
from service.models.store import load_model

_log = logging.getLogger(__name__)


def load_models(settings: Settings, measure: bool = False) -> list[dict[str, LoadedModel]]:
    """Every model that the settings name, by name, on each of the settings' devices.

    Lanes and threads of all models on one device are those of the first.

    Args:
        settings: frozen.
        measure: choose arrangements by measuring, where none is kept yet.

    Raises:
        ConfigurationError: one that cannot be loaded, a name twice, or a default sigma that the
            first does not have.
    """
    devices = [str(device) for device in choose_devices(settings.device)]
    loaded = {name: _load_on(name, settings, measure) for name in dict.fromkeys(devices)}
    # Engines on one processor share its weights and divide its lanes.
    return [
        {
            name: replace(model, lanes=max(1, model.lanes // devices.count(device)))
            for name, model in loaded[device].items()
        }
        for device in devices
    ]


def load_beside(models: dict[str, LoadedModel], reference: str, settings: Settings) -> LoadedModel:
    """One model more on the device of these; nothing is measured for it.

    Args:
        models: that run there, the default first; its lanes and threads serve all.
        reference: package name, name/version, hub id or folder.
        settings: frozen.

    Raises:
        ConfigurationError: it cannot be loaded.
    """
    first = next(iter(models.values()))
    device = str(first.pipeline.device)
    shared = {"device": device, "lanes": first.lanes, "threads": first.threads}
    try:
        model = load_model(reference, settings.model_copy(update=shared))
    except ConfigurationError:
        raise
    except Exception as error:  # whatever it is, what is served goes on
        reason = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"cannot load {reference!r}: {reason}") from error
    if model.name == first.name and settings.default_sigma not in (None, *model.sigmas):
        raise ConfigurationError(
            f"default_sigma {settings.default_sigma} is not a noise level of {model.name}"
        )
    _log.info("loaded %s (%s)", model.name, model.revision)
    return model


def _load_on(device: str, settings: Settings, measure: bool) -> dict[str, LoadedModel]:
    settings = settings.model_copy(update={"device": device})
    models: dict[str, LoadedModel] = {}
    for reference in settings.models:
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
