"""Makes transformers' auto classes know the package's models, without importing either before it is needed.

transformers keeps its own models in tables of names and imports the module of a name at look-up. The package's models
get into the same tables as soon as these exist: at once where transformers' auto classes are imported already,
otherwise at the end of their import, by a finder on `sys.meta_path`. Nothing is imported at that moment, so neither
the order of imports nor threads matter.
"""

import importlib
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = __name__.rpartition(".")[0]
# Model type to the names of its classes, which the package has as attributes.
MODELS = {
    "mirage": ("MiraGeConfig", "MiraGeForImageDetection"),
    "mirage-baseline": ("BaselineConfig", "BaselineForImageDetection"),
}
AUTO = "transformers.models.auto"
MODULE = "mirage"  # in `transformers.models`, where transformers looks for it


def name_configs(auto: ModuleType) -> None:
    """Names the configurations in the tables of `configuration_auto`."""
    sys.modules[f"transformers.models.{MODULE}"] = sys.modules[PACKAGE]
    for model_type, (config, _) in MODELS.items():
        claim(auto.CONFIG_MAPPING_NAMES, model_type, config)
        claim(auto.SPECIAL_MODEL_TYPE_TO_MODULE_NAME, model_type, MODULE)


def name_models(auto: ModuleType) -> None:
    """Names the models in the tables of `modeling_auto`."""
    for model_type, (_, model) in MODELS.items():
        claim(auto.MODEL_MAPPING_NAMES, model_type, model)
        claim(auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, model_type, model)


def claim(table: dict[str, str], key: str, value: str) -> None:
    """
    Adds an entry.

    Raises:
        ValueError: transformers has another one of this key.
    """
    if table.setdefault(key, value) != value:
        raise ValueError(f"this transformers has its own model type {key!r}: {PACKAGE} needs another version of it")


# In the order of their import: the tables of models are put together from those of configurations.
NAMING: dict[str, Callable[[ModuleType], None]] = {
    f"{AUTO}.configuration_auto": name_configs,
    f"{AUTO}.modeling_auto": name_models,
}


class NamingLoader(Loader):
    """A module's own loader, and what is to happen after it."""

    def __init__(self, loader: Any, naming: Callable[[ModuleType], None]):
        self.loader, self.naming = loader, naming

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        self.naming(module)

    def __getattr__(self, name: str) -> Any:  # such as `get_source`, for those who only ask for the spec
        return getattr(self.loader, name)


class NamingFinder(MetaPathFinder):
    """Finds the modules with tables, and gives them a [`NamingLoader`]."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in NAMING:
            return None
        for finder in sys.meta_path:
            if not isinstance(finder, NamingFinder):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None and spec.loader is not None:
                    spec.loader = NamingLoader(spec.loader, NAMING[fullname])
                    return spec
        return None


def register() -> None:
    """
    Registers the models, now or when transformers' auto classes are imported.

    Raises:
        ValueError: transformers has a model type of the same name.
    """
    # It is never taken away: that would make an import in another thread skip the finder behind it.
    if not any(type(finder).__module__ == __name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, NamingFinder())
    present = [name for name in NAMING if name in sys.modules]
    for name in present:
        NAMING[name](importlib.import_module(name))  # another thread may be at it
    if f"{AUTO}.modeling_auto" in present:
        register_classes()


def register_classes() -> None:
    """Registers the classes themselves: mappings that exist already have made their own copy of the names."""
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

    package = sys.modules[PACKAGE]
    for model_type, names in MODELS.items():
        config, model = (getattr(package, name) for name in names)
        AutoConfig.register(model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
        AutoModelForImageClassification.register(config, model, exist_ok=True)


__all__ = ["register"]
