"""config.yaml as frozen models: every default stands here once, every problem is reported at once.

`load_config` is all that a script calls. Paths are relative to config.yaml and come back absolute.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from distill.errors import PipelineError
from distill.files import read_text

# -----------------------------------------------------------------------------
# Kinds of value


def resolve_path(path: Path, info: ValidationInfo) -> Path:
    """Absolute, relative to the folder of config.yaml; "D:\\new" in double quotes holds a line feed and is refused."""
    if any(ord(character) < 32 for character in str(path)):
        raise ValueError("a backslash in double quotes became a control character: write the path with forward slashes")
    folder = (info.context or {}).get("folder", Path.cwd())
    return Path(os.path.abspath(folder / path.expanduser()))


def to_tuple(value: Any) -> Any:
    """One file written without brackets is a list of one, null an empty list."""
    return () if value is None else (value,) if isinstance(value, (str, Path)) else value


def resolve_model(name: str, info: ValidationInfo) -> str:
    """A folder becomes an absolute path; anything else is taken for a hub id such as owner/name."""
    path = resolve_path(Path(name), info)
    looks_like_path = name.startswith((".", "~", "/")) or "\\" in name or name[1:2] == ":"
    return str(path) if path.is_dir() or looks_like_path else name


def check_url(url: str) -> str:
    """A base URL without credentials: they would reach logs and manifests."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http or https address such as http://127.0.0.1:11434")
    if parts.username or parts.password or parts.query:
        raise ValueError("must hold no user name, password or key: keys belong in keyring or the environment")
    return url.rstrip("/")


def require_placeholders(*names: str, or_empty: bool = False) -> AfterValidator:
    """A text that holds each {name} exactly once; with `or_empty`, "" is allowed too."""

    def check(text: str) -> str:
        for name in names if text or not or_empty else ():
            if text.count("{" + name + "}") != 1:
                raise ValueError(f"must hold {{{name}}} exactly once")
        return text

    return AfterValidator(check)


def check_pattern(pattern: str) -> str:
    """A regular expression that compiles, and does not match everywhere."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    if compiled.match(""):
        raise ValueError("matches nothing at all, and so everywhere")
    return pattern


MODEL_KEYS = ("base_model", "model", "stock_model")  # names, or absolute paths: see resolve_model
ConfigPath = Annotated[Path, AfterValidator(resolve_path)]
ConfigPaths = Annotated[tuple[ConfigPath, ...], BeforeValidator(to_tuple)]
ModelName = Annotated[str, Field(min_length=1), AfterValidator(resolve_model)]
BaseUrl = Annotated[str, AfterValidator(check_url)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
Pattern = Annotated[str, Field(min_length=1), AfterValidator(check_pattern)]


class Section(BaseModel):
    """Frozen; unknown keys are refused; defaults are validated too, so that default paths become absolute."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


# A section left out of config.yaml is validated like an empty one, so that its default paths become absolute too.
EMPTY: Any = Field(default={})


# -----------------------------------------------------------------------------
# The sections of config.yaml, in its order; what each key means is said there


class PromptSection(Section):
    """The wording that training, Modelfile and both sides of the evaluation share."""

    system: str = (
        "You are a domain expert who answers engineers from their own technical documents. "
        "Be precise, keep every value exactly as the source writes it, and cite the sources you use."
    )
    template_file: ConfigPath | None = None
    template: Annotated[str, require_placeholders("context", "question")] = (
        "Answer the question from the numbered sources. Cite each source you use as [Source N].\n"
        "If the sources do not hold the answer, reply: The provided documents do not answer this question.\n\n"
        "{context}\n\nQuestion: {question}"
    )
    source_format: Annotated[str, require_placeholders("text")] = "[Source {number}] {source_name}\n{text}"
    source_separator: str = "\n\n"
    citation: Annotated[str, require_placeholders("number", or_empty=True)] = "[Source {number}]"
    refusal: str = "The provided documents do not answer this question."
    general_knowledge: str = ""


class EmbedderSection(Section):
    """What turns a text into the vector that the index holds."""

    provider: Literal["ollama", "sentence-transformers"] = "ollama"
    model: ModelName = "nomic-embed-text"
    base_url: BaseUrl = "http://127.0.0.1:11434"
    query_prefix: str = "search_query: "


class IndexSection(Section):
    """How an index names what it holds; "" for what it does not have. The values are HybridRAG3's."""

    database: Name = "hybridrag.sqlite3"
    vectors: Name = "embeddings.f16.dat"
    table: Name = "chunks"
    key: str = "chunk_pk"
    chunk_id: Name = "chunk_id"
    source: Name = "source_path"
    text: Name = "text"
    embedding_row: str = "embedding_row"
    fts_table: str = "chunks_fts"
    tiers: tuple[str, ...] = ("serve", "archive")


class DocumentsSection(Section):
    """Rows made from documents alone: the teacher writes questions and answers for sets of neighbouring chunks."""

    sets: int = Field(default=0, ge=0)
    chunks_per_set: Positive = 2
    questions_per_set: Positive = 3
    category: str = "Documents"


class ContextSection(Section):
    """What stands beside the chunk that holds the answer."""

    near_misses: int = Field(default=1, ge=0)
    shuffle: bool = True
    golden_less_share: Annotated[float, Field(ge=0, lt=1)] = 0.1


class ChecksSection(Section):
    """What an answer must be to become a row."""

    max_answer_tokens: Positive = 512
    min_words: Positive = 4
    min_support: Share = 0.4
    near_duplicate: Annotated[float, Field(gt=0, le=1)] = 0.8
    heldout_overlap: Annotated[float, Field(gt=0, le=1)] = 0.8
    refusal_share: Share = 0.2
    judge: bool = False
    min_judge_score: int = Field(default=4, ge=1, le=5)


class MaskingSection(Section):
    """Personal data that is replaced before anything is sent or learnt."""

    kinds: tuple[Literal["card", "ssn", "email", "phone", "ip"], ...] = ("card", "ssn", "email", "phone", "ip")
    patterns: dict[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], Pattern] = Field(default={})
    words_file: ConfigPath | None = None


class OpenRouterSection(Section):
    """Sent as `provider` with each request when base_url is openrouter.ai; null leaves it to OpenRouter."""

    zdr: bool | None = True
    data_collection: Literal["allow", "deny"] | None = "deny"
    enforce_distillable_text: bool | None = True


class TeacherSection(Section):
    """Who answers the questions."""

    place: ClassVar[str] = "generate.teacher"
    enabled: bool = True
    provider: Literal["openai", "extractive"] = "openai"
    base_url: BaseUrl = "https://openrouter.ai/api/v1"
    model: str = "mistralai/mistral-large-2512"
    api_key_env: str = "OPENROUTER_API_KEY"
    keyring_service: str = "hybridrag-distill"
    use_hybridrag_key: bool = False
    openrouter: OpenRouterSection = EMPTY
    budget_usd: float | None = Field(default=None, gt=0)
    prompt_usd_per_million: float | None = Field(default=None, ge=0)
    answer_usd_per_million: float | None = Field(default=None, ge=0)
    two_pass: bool = False
    reasoning: bool = False
    instructions: str = (
        "Write a thorough answer for an engineer with more than five years of experience. "
        "Include the equations, specifications and standards that the sources give. Use at most 300 words."
    )
    temperature: float = Field(default=0.3, ge=0, le=2)
    max_tokens: Positive = 1024
    concurrency: Positive = 4
    requests_per_minute: Positive = 60
    tokens_per_minute: Positive | None = None
    timeout_seconds: float = Field(default=120, gt=0)
    max_attempts: Positive = 5
    sentences: Positive = 2
    min_sentence_score: float = Field(default=0.35, ge=-1, le=1)


class GenerateSection(Section):
    """Stage 1: questions and index in, training rows out."""

    questions_file: ConfigPath | None = Path("domain_questions.yaml")
    curated_files: ConfigPaths = ()
    documents: DocumentsSection = EMPTY
    recordings_file: ConfigPath | None = None
    index_folder: ConfigPath = Path("D:/RAG Indexed Data")
    index: IndexSection = EMPTY
    embedder: EmbedderSection = EMPTY
    retrieval: Literal["hybrid", "vector", "keyword"] = "hybrid"
    top_k: Positive = 5
    min_score: float = Field(default=0.3, ge=-1, le=1)
    context: ContextSection = EMPTY
    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    canaries: int = Field(default=0, ge=0)
    masking: MaskingSection = EMPTY
    teacher: TeacherSection = EMPTY
    checks: ChecksSection = EMPTY


class FinetuneSection(Section):
    """Stage 2: QLoRA."""

    base_model: ModelName = "unsloth/Phi-4-mini-instruct"
    base_revision: str | None = None
    continue_from: ConfigPath | None = None
    more_training_data: ConfigPaths = ()
    backend: Literal["auto", "unsloth", "peft"] = "auto"
    vram_gb: float | None = Field(default=None, gt=0)
    load_in_4bit: bool | Literal["auto"] = "auto"
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    tokens_per_batch: Positive | Literal["auto"] = "auto"
    max_length: Positive = 4096
    over_length: Literal["error", "drop", "trim_context"] = "error"
    include_reasoning: bool = False
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    lora_r: Positive = 16
    lora_alpha: Positive = 16
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    learning_rate: float = Field(default=2e-4, ge=0)
    lr_scheduler: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup_steps: int = Field(default=10, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    epochs: float = Field(default=3, gt=0)
    max_steps: Positive | None = None
    effective_batch_size: Positive = 8
    curriculum: bool = False
    validation_share: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    early_stopping_patience: Positive | None = 3
    sample_questions: int = Field(default=5, ge=0)
    save_steps: Positive = 25
    logging_steps: Positive = 1
    tensorboard: bool = False
    seed: int = 42

    @model_validator(mode="after")
    def check_steps(self) -> FinetuneSection:
        """A checkpoint falls on a logged step, so that a resumed log is exact."""
        if self.save_steps % self.logging_steps:
            raise ValueError(f"save_steps {self.save_steps} is not a multiple of logging_steps {self.logging_steps}")
        return self


class ExportSection(Section):
    """Stage 3: GGUF, Modelfile, verification."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")] = "hybridrag-phi4mini"
    quantization: tuple[Literal["f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"], ...] = Field(
        default=("q4_k_m",), min_length=1
    )
    export_base: bool = True
    save_merged: bool = False
    verify: Literal["quick", "full", "none"] = "quick"
    temperature: float = Field(default=0.3, ge=0, le=2)
    top_p: float = Field(default=0.9, gt=0, le=1)
    top_k: Positive = 40
    num_ctx: Positive = 4096

    @model_validator(mode="after")
    def _require_distinct(self) -> ExportSection:
        if len(set(self.quantization)) < len(self.quantization):
            raise ValueError("quantization names a type twice")
        return self


class JudgeSection(Section):
    """A model that compares both answers with the sources in view; it never decides."""

    place: ClassVar[str] = "evaluate.judge"
    temperature: ClassVar[float] = 0.0
    use_hybridrag_key: ClassVar[bool] = False
    enabled: bool = False
    base_url: BaseUrl = "http://127.0.0.1:11434/v1"
    model: str = "phi4:14b"
    api_key_env: str = "OPENROUTER_API_KEY"
    keyring_service: str = "hybridrag-distill"
    openrouter: OpenRouterSection = Field(default={"enforce_distillable_text": None})
    budget_usd: float | None = Field(default=None, gt=0)
    prompt_usd_per_million: float | None = Field(default=None, ge=0)
    answer_usd_per_million: float | None = Field(default=None, ge=0)
    rubric: str = (
        "Prefer the answer that an engineer could act on: every value, unit and name right, what was asked answered in full, "
        "nothing said that the sources do not hold. Length and tone do not matter."
    )
    questions: Positive | None = None
    max_tokens: Positive = 512
    concurrency: Positive = 1
    requests_per_minute: Positive = 60
    tokens_per_minute: Positive | None = None
    timeout_seconds: float = Field(default=600, gt=0)
    max_attempts: Positive = 5


ServiceSection = TeacherSection | JudgeSection  # a chat model behind an OpenAI-compatible address


class EvaluateSection(Section):
    """Stage 4: base against tuned."""

    engine: Literal["ollama", "embedded"] = "ollama"
    endpoint: Literal["chat", "generate"] = "chat"
    ollama_url: BaseUrl = "http://127.0.0.1:11434"
    stock_model: str | None = None
    concurrency: Positive = 1
    max_attempts: Positive = 2
    timeout_seconds: float = Field(default=600, gt=0)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=0.9, gt=0, le=1)
    top_k: Positive = 40
    max_tokens: Positive = 512
    seed: int = 42
    embedder: EmbedderSection = Field(default={"query_prefix": ""})
    own_cases: ConfigPaths = ()
    golden_cases: ConfigPaths = ()
    general_questions: bool = True
    memory_probes: int = Field(default=100, ge=0)
    primary_metric: str = "correctness"
    smallest_difference: float = Field(default=0.05, ge=0, lt=1)
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    bootstrap_samples: int = Field(default=10_000, ge=100)
    max_failed_share: Share = 0.05
    judge: JudgeSection = EMPTY


class Config(Section):
    """The whole of config.yaml."""

    work_dir: ConfigPath = Path(".")
    encrypt: bool = False
    prompt: PromptSection = EMPTY
    generate: GenerateSection = EMPTY
    finetune: FinetuneSection = EMPTY
    export: ExportSection = EMPTY
    evaluate: EvaluateSection = EMPTY

    @property
    def training_dir(self) -> Path:
        """Stage 1's output."""
        return self.work_dir / "training_data"

    @property
    def adapters_dir(self) -> Path:
        """Stage 2's output."""
        return self.work_dir / "adapters"

    @property
    def gguf_dir(self) -> Path:
        """Stage 3's output."""
        return self.work_dir / "gguf"

    @property
    def evaluation_dir(self) -> Path:
        """Stage 4's output."""
        return self.work_dir / "evaluation"

    def describe(self, section: str) -> dict[str, Any]:
        """A section as plain values without machine paths: relative to work_dir, or the name alone outside it.

        Of masking.patterns it has the names alone: an expression may hold what it shall mask, and manifests travel.
        """
        values = strip_paths(getattr(self, section).model_dump(mode="python"), self.work_dir)
        if section == "generate":
            values["masking"]["patterns"] = sorted(values["masking"]["patterns"])
        return values

    def value_of(self, key: str) -> Any:
        """The value of a dotted key such as finetune.base_model, described as in `describe`."""
        section, *rest = key.split(".")
        value = self.describe(section)
        for part in rest:
            value = value[part]
        return value


def strip_paths(value: Any, work_dir: Path) -> Any:
    """Replace every absolute path in nested plain values by what may leave the machine."""
    if isinstance(value, dict):
        return {
            key: name_path(Path(item), work_dir)
            if key in MODEL_KEYS and item and os.path.isabs(item)
            else strip_paths(item, work_dir)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [strip_paths(item, work_dir) for item in value]
    return name_path(value, work_dir) if isinstance(value, Path) else value


def name_path(path: Path, work_dir: Path) -> str:
    """A path as a manifest may hold it: relative to work_dir with forward slashes, or outside it the name alone."""
    return path.relative_to(work_dir).as_posix() if path.is_relative_to(work_dir) else path.name


# -----------------------------------------------------------------------------
# Reading


def type_command(script: str, path: Path) -> str:
    """The command that runs a script with the config at `path`, as the user would type it."""
    return f"python {script}" if path == Path("config.yaml") else f'python {script} --config "{path}"'


def load_config(path: Path) -> Config:
    """Read and check config.yaml. Raises one PipelineError that lists every problem with its line and key."""
    if not path.is_file():
        raise PipelineError(f"{path} is missing: run in the project's folder, or name the file with --config")
    data, lines, problems = parse_yaml(path)
    problems += list_unknown_keys(data, Config, "")
    fill_template(data, path.resolve().parent)
    try:
        config = Config.model_validate(data, context={"folder": path.resolve().parent})
    except ValidationError as error:
        problems += [describe_problem(problem) for problem in error.errors() if problem["type"] != "extra_forbidden"]
    if problems:
        named = [f"{path}:{lines[key]} {key}: {text}" if key in lines else f"{path} {key}: {text}" for key, text in problems]
        raise PipelineError("\n       ".join(named))
    PLACES.clear()
    PLACES.update({key: f"{path}:{line}" for key, line in lines.items()} | {"": str(path)})
    return config


PLACES: dict[str, str] = {}  # file and line of each key of the config that was read last; under "" the file alone


def name_place(message: str) -> str:
    """A message about a key ("config.yaml evaluate.seed is ...") with the file, which may have another name, and the line."""
    found = re.match(r"config\.yaml ([\w.]+)", message)
    if not found or not PLACES:
        return message
    return PLACES.get(found[1].rstrip("."), PLACES[""]) + message.removeprefix("config.yaml")


def fill_template(data: dict[str, Any], folder: Path) -> None:
    """Read prompt.template_file, if there is one, over prompt.template: everything after this knows one template.

    Line ends become LF, and one at the file's end, which editors add, is not part of the template.
    """
    prompt = data.get("prompt")
    name = prompt.get("template_file") if isinstance(prompt, dict) else None
    if isinstance(name, str):
        prompt["template"] = read_text(folder / Path(name).expanduser()).replace("\r\n", "\n").removesuffix("\n")


def parse_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int], list[tuple[str, str]]]:
    """The file's values, the line of each dotted key, and its duplicate keys as problems (PyYAML keeps the last, silently)."""
    text = read_text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text) or {}
    except yaml.MarkedYAMLError as error:
        raise PipelineError(f"{path}:{error.problem_mark.line + 1} {explain_yaml(error)}") from None
    except yaml.YAMLError as error:
        raise PipelineError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise PipelineError(f"{path} must hold keys such as work_dir: and finetune:, not {type(data).__name__}")
    lines: dict[str, int] = {}
    problems = []
    for key, line in walk_keys(node, ""):
        if key in lines:
            problems.append((key, f"stands twice, also in line {lines[key]}: delete one"))
        lines[key] = line
    return data, lines, problems


def explain_yaml(error: yaml.MarkedYAMLError) -> str:
    """What is wrong, with the mend for the one mistake that every Windows user makes once."""
    if "escape" in (error.problem or ""):
        return 'a backslash in double quotes is an escape: write the path with forward slashes, "D:/FineTuning"'
    if "'\\t'" in (error.problem or ""):
        return "a tab stands where YAML wants blanks: indent with blanks"
    return f"is not YAML: {error.problem}"


def walk_keys(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
    """Every mapping key below a node as (dotted key, line)."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value_node in node.value:
        key = f"{prefix}{key_node.value}"
        yield key, key_node.start_mark.line + 1
        yield from walk_keys(value_node, key + ".")


GONE = {"batch_size": "tokens_per_batch"}  # what took the place of a key of an earlier version


def list_unknown_keys(data: Any, model: type[BaseModel], prefix: str) -> list[tuple[str, str]]:
    """A problem for each key that no section knows, naming the nearest one that exists."""
    if not isinstance(data, dict):
        return []
    problems = []
    for key, value in data.items():
        field = model.model_fields.get(key)
        if field is None:
            near = [GONE[key]] if key in GONE else difflib.get_close_matches(str(key), model.model_fields, n=1, cutoff=0)
            problems.append((f"{prefix}{key}", f"unknown key: did you mean {near[0]}?"))
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            problems += list_unknown_keys(value, field.annotation, f"{prefix}{key}.")
    return problems


def describe_problem(problem: Any) -> tuple[str, str]:
    """A pydantic error as (dotted key, sentence with the value that was given)."""
    forms = ("literal", "tuple", "function-", "constrained-", "bool")  # of a value that may be one of several
    key = ".".join(str(part) for part in problem["loc"] if not str(part).startswith(forms))
    message = problem["msg"].removeprefix("Value error, ")
    return key, f"{message} (given: {str(problem['input'])[:60]!r})"
