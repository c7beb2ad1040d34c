"""The Recipe: every setting of a run in one frozen tree.

Its sections are in `settings`; here they become one tree, read from YAML and from flags. Paths, keys and credentials
are never in a recipe.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from medpipe import sizes
from medpipe.errors import InputError
from medpipe.settings import (
    AutoencoderSettings,
    CohortSettings,
    ComputeSettings,
    ConsentSettings,
    DeidSettings,
    DistillSettings,
    GatesSettings,
    ImagesSettings,
    ModelSettings,
    ReleaseSettings,
    Section,
    SourceSettings,
    TrainSettings,
)


class Recipe(Section):
    """Every setting of a run."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = "custom"
    """Name of the recipe."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Root of every random choice."""
    source: SourceSettings = SourceSettings()
    deid: DeidSettings = DeidSettings()
    consent: ConsentSettings = ConsentSettings()
    images: ImagesSettings = ImagesSettings()
    model: ModelSettings = ModelSettings()
    autoencoder: AutoencoderSettings = AutoencoderSettings()
    train: TrainSettings = TrainSettings()
    distill: DistillSettings = DistillSettings()
    cohort: CohortSettings = CohortSettings()
    gates: GatesSettings = GatesSettings()
    release: ReleaseSettings = ReleaseSettings()
    compute: ComputeSettings = ComputeSettings()

    @model_validator(mode="after")
    def _rules_across_fields(self) -> Self:
        images, model, cohort = self.images, self.model, self.cohort
        if images.validation + images.holdout + images.test > 0.7:
            raise ValueError("images.validation, holdout and test leave less than 0.3 for training: lower them")
        if len(model.channels) != len(model.blocks):
            raise ValueError("model.channels and model.blocks need one entry per resolution each")
        if model.network == "transformer" and model.size == "custom" and (len(model.channels) > 1 or model.channels[0] % 32):
            raise ValueError("a transformer has one width, a multiple of 32: set model.size, or one entry in model.channels and blocks")
        if len(set(model.maps)) < len(model.maps):
            raise ValueError("model.maps names a map twice: name each once")
        if model.space == "latent" and (model.maps or self.train.augment or self.compute.processes * self.compute.nodes > 1):
            raise ValueError("model.space latent takes no model.maps and no train.augment, and trains in one process")
        if any(length % self.side for length in images.shape):
            name = "images.sides" if images.sides else "images.size"
            raise ValueError(f"{name} must be a multiple of {self.side} for this model (patch × halvings)")
        highest = "sigma_start" if cohort.start == "gaussian" else "sigma_max"
        if cohort.sigma_min >= getattr(cohort, highest):
            raise ValueError(f"cohort.sigma_min must be below cohort.{highest}")
        if self.train.batch < self.compute.processes * self.compute.nodes:
            raise ValueError("train.batch must be at least compute.processes × compute.nodes, an image for each process")
        if problem := self._against_privacy():
            raise ValueError(f"train.dp_epsilon (differentially private training) {problem}")
        if self.train.canaries and (model.maps or model.space == "latent"):
            raise ValueError("train.canaries are images without maps: set model.space pixel and no model.maps, or plant none")
        if self.compute.nodes > 1 and self.compute.rendezvous is None:
            raise ValueError("compute.nodes needs compute.rendezvous, the HOST:PORT where the nodes find each other")
        if cohort.guidance_high is not None and cohort.guidance_low >= cohort.guidance_high:
            raise ValueError("cohort.guidance_low must be below cohort.guidance_high")
        if self.source.form == "arrays" and (self.source.table or self.source.label):
            raise ValueError("source.table and source.label are for DICOM: arrays carry their own labels")
        if self.source.form == "dicom" and images.split != "patient":
            raise ValueError("images.split must be 'patient' for DICOM")
        if (self.consent.purpose == "disease") != bool(self.consent.diseases):
            raise ValueError("consent.diseases goes with consent.purpose 'disease', and that with it: give both or neither")
        if images.percentile_low >= images.percentile_high:
            raise ValueError("images.percentile_low must be below images.percentile_high")
        return self

    def _against_privacy(self) -> str:
        """Say what private training cannot be combined with; empty where nothing is in its way."""
        train, model = self.train, self.model
        if train.dp_epsilon is None:
            return "is needed with train.dp_epsilon_total and train.dp_noise" if train.dp_epsilon_total or train.dp_noise else ""
        if train.precision == "bf16" or train.compile == "on" or self.compute.processes * self.compute.nodes > 1:
            return "computes a gradient per patient, in fp32, uncompiled, in one process: leave train.precision and compile on auto"
        if model.space == "latent" or model.maps:
            return "covers neither an autoencoder nor maps: set model.space pixel and no model.maps"
        if self.cohort.start == "gaussian":
            return "keeps no moments of the training split, from which cohort.start gaussian begins: set cohort.start noise"
        if train.stop_gap is not None or train.canaries:
            return "does not look at the loss of single patients, and plants nothing: leave train.stop_gap and canaries empty"
        return ""

    @property
    def side(self) -> int:
        """The number of which the images' sides have to be multiples: patch × halvings, of the autoencoder too where there is one."""
        return sizes.side(self.model) * (self.autoencoder.factor if self.model.space == "latent" else 1)

    def settings(self, *sections: str) -> dict[str, Any]:
        """Return the named sections in JSON's types: what a verb puts in `made_from`."""
        return self.model_dump(mode="json", include=set(sections))


SECTIONS: tuple[str, ...] = (
    "source",
    "deid",
    "consent",
    "images",
    "model",
    "autoencoder",
    "train",
    "distill",
    "cohort",
    "gates",
    "release",
    "compute",
)


def names() -> list[str]:
    """Return the names of the recipes that medpipe carries."""
    return sorted(entry.name.removesuffix(".yaml") for entry in files("medpipe.recipes").iterdir() if entry.name.endswith(".yaml"))


def headline(name: str) -> str:
    """Return the first comment line of a recipe that medpipe carries: what it is and what it costs."""
    text = (files("medpipe.recipes") / f"{name}.yaml").read_text()
    return next((line.lstrip("# ").rstrip() for line in text.splitlines() if line.startswith("#")), "")


def load(name_or_file: str | Path, changes: dict[str, Any] | None = None) -> Recipe:
    """Load a recipe by name or file and apply `changes` (nested as the recipe is); raises InputError naming the field."""
    path = Path(name_or_file)
    if str(name_or_file) in names():
        text = (files("medpipe.recipes") / f"{name_or_file}.yaml").read_text()
    elif path.is_file():
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the recipe {path.name} cannot be read ({type(error).__name__}): give a YAML file") from None
    else:
        raise InputError(f"there is no recipe '{name_or_file}': give a file, or one of {', '.join(names())}")
    try:
        tree = yaml.load(text, _Loader) or {}  # a SafeLoader
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        what = ": ".join([*([f"line {mark.line + 1}"] if mark else []), *([problem] if problem else [])])
        raise InputError(f"the recipe is not valid YAML{f' ({what})' if what else ''}: correct it") from None
    if not isinstance(tree, dict):
        raise InputError("the recipe must be a mapping of sections, such as 'train:' with fields below it")
    tree = {name: {} if name in SECTIONS and value is None else value for name, value in tree.items()}
    return build(_merged(tree, changes or {}))


def build(tree: dict[str, Any]) -> Recipe:
    """Validate a tree of settings; raises InputError with every wrong field, the rule and what was found."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise InputError("the recipe is wrong: " + "; ".join(_sentence(problem) for problem in error.errors())) from None


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but for one thing: of a key that stands twice, it would take the last and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.MarkedYAMLError(problem=f"{key} stands twice", problem_mark=node.value[number][0].start_mark)
        return super().construct_mapping(node, deep)


def _sentence(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"] if not str(part).startswith(("function-", "constrained")))
    if problem["type"] == "extra_forbidden":
        return f"{place} is not a setting (see 'medpipe recipe')"
    message = problem["msg"].removeprefix("Value error, ")
    found = problem["input"]
    if isinstance(found, (str, int, float)) and len(repr(found)) <= 60:
        message += f", found {found!r}"
    return f"{place}: {message}" if place else message


def _merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    out = dict(tree)
    for name, value in changes.items():
        out[name] = _merged(out[name] or {}, value) if isinstance(value, dict) and isinstance(out.get(name), dict) else value
    return out


def dump(recipe: Recipe) -> str:
    """Write a recipe as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
