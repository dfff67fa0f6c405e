"""The models that are served together: loaded, warmed, and replaced as a whole.

Nothing about a loaded model ever changes under a request. New ones are warmed on a fleet of their
own beside the old; then new requests go there, and the old fleet ends with the last request that it
was leased to. Models that stay are shared, with their weights and their languages.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from service.config import Settings
from service.errors import ConfigurationError
from service.fleet import Fleet
from service.metrics import Metrics
from service.models.catalogue import load_beside, load_models
from service.models.loaded import LoadedModel
from service.speaking import Speaker

# The name of the model that comes or goes, and for each device the models there would be.
Changed = tuple[str, list[dict[str, LoadedModel]]]


class Serving:
    """Models on their devices, ready for samples and, where they have a language, for answers.

    Args:
        devices: for each device, its models by name, the default first.
        before: what was served until now; models in both share their language's thread.
        settings: frozen.
        metrics: of all that is served.

    Raises:
        ConfigurationError: a model fails its warm-up; nothing runs then.
    """

    def __init__(
        self,
        devices: Sequence[dict[str, LoadedModel]],
        before: "Serving | None",
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.models: Mapping[str, LoadedModel] = devices[0]
        self.fleet = Fleet(devices, metrics, settings.device_timeout_ms / 1000)
        self._devices = devices
        self._leases = 0
        try:
            self.fleet.start()
        except Exception as error:
            raise ConfigurationError(f"the model failed its warm-up: {error}") from error
        self.speakers: dict[str, Speaker] = {}
        for name, model in self.models.items():
            if model.answerer is None:
                continue
            if before is not None and before.speaks(name, model):
                self.speakers[name] = before.speakers[name]
                continue
            self.speakers[name] = Speaker(model.answerer, settings.max_answers, model.threads)
            self.speakers[name].start()

    @property
    def default(self) -> str:
        """Name of the model of requests that name none."""
        return next(iter(self.models))

    @property
    def leased(self) -> bool:
        """Requests work with it."""
        return self._leases > 0

    def speaks(self, name: str, model: LoadedModel) -> bool:
        """This very model's language has a thread here."""
        return name in self.speakers and self.models[name].answerer is model.answerer

    @contextmanager
    def lease(self) -> Iterator[None]:
        """It stays while this is held; on the event loop only."""
        self._leases += 1
        try:
            yield
        finally:
            self._leases -= 1

    def with_model(self, reference: str, settings: Settings) -> Changed:
        """One model more, or one in place of that of the same name.

        Args:
            reference: package name, name/version, hub id or folder.
            settings: frozen.

        Raises:
            ConfigurationError: it cannot be loaded.
        """
        loaded: dict[str, LoadedModel] = {}  # engines on one processor share its weights
        for engine, models in zip(self.fleet.engines, self._devices, strict=True):
            if engine.device not in loaded:
                loaded[engine.device] = load_beside(models, reference, settings)
        # Last, for loading takes its time, and a batch shape that is halved meanwhile stays so.
        found = [self._present(i) for i in range(len(self._devices))]
        name = next(iter(loaded.values())).name
        for engine, models in zip(self.fleet.engines, found, strict=True):
            models[name] = loaded[engine.device]
        return name, found

    def without_model(self, name: str) -> Changed:
        """One model less.

        Raises:
            ConfigurationError: it is not served, or is the default.
        """
        if name not in self.models:
            raise ConfigurationError(f"no model {name!r} is served: {', '.join(self.models)} are")
        if name == self.default:
            raise ConfigurationError(f"{name!r} is the default model, which cannot be taken away")
        found = [self._present(i) for i in range(len(self._devices))]
        for models in found:
            del models[name]
        return name, found

    def stop(self, kept: Sequence["Serving"] = ()) -> None:
        """End its engines, and the languages that none of the kept has."""
        self.fleet.stop()
        shared = {id(speaker) for one in kept for speaker in one.speakers.values()}
        for speaker in self.speakers.values():
            if id(speaker) not in shared:
                speaker.stop()

    def _present(self, device: int) -> dict[str, LoadedModel]:
        """Of one device, in the batch shapes they have by now: a halved one stays so."""
        engine = self.fleet.engines[device]
        return {name: engine.model(name) for name in self._devices[device]}


def first_serving(settings: Settings, metrics: Metrics, measure: bool) -> Serving:
    """Of the models that the settings name.

    Raises:
        ConfigurationError: a model that cannot be loaded, or fails its warm-up.
    """
    return Serving(load_models(settings, measure), None, settings, metrics)
