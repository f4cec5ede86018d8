"""config.yaml: what is refused, how it is said, and what Windows does to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from distill.config import Config, load_config, name_place
from distill.errors import PipelineError

SHIPPED = Path(__file__).parent.parent / "config.yaml"


def load_text(folder: Path, text: str, encoding: str = "utf-8") -> Config:
    path = folder / "config.yaml"
    path.write_bytes(text.encode(encoding))
    return load_config(path)


# -----------------------------------------------------------------------------
# The shipped file


def test_shipped_config_shows_the_defaults() -> None:
    shipped = load_config(SHIPPED)
    defaults = Config.model_validate({}, context={"folder": SHIPPED.parent.resolve()})
    assert shipped.model_dump() == defaults.model_dump()


def test_shipped_config_names_every_key_under_a_comment() -> None:
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    data = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    expected = Config.model_validate({}, context={"folder": SHIPPED.parent}).model_dump()
    assert list_keys(data) == list_keys(expected)
    for number, line in enumerate(lines):
        if re.match(r" *[a-z_0-9]+:", line):
            assert lines[number - 1].strip().startswith("#"), f"line {number + 1} has no comment above it: {line}"


def list_keys(value: object, prefix: str = "") -> set[str]:
    if not isinstance(value, dict):
        return set()
    return {prefix + key for key in value} | {k for key in value for k in list_keys(value[key], f"{prefix}{key}.")}


# -----------------------------------------------------------------------------
# Problems


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("finetune:\n  lerning_rate: 1\n", r"config.yaml:2 finetune.lerning_rate: unknown key: did you mean learning_rate\?"),
        ("fintune:\n  epochs: 1\n", r"config.yaml:1 fintune: unknown key: did you mean finetune\?"),
        ("generate:\n  teacher:\n    modle: x\n", r"config.yaml:3 generate.teacher.modle: .* did you mean model\?"),
        ("finetune:\n  epochs: -1\n", r"config.yaml:2 finetune.epochs: .*greater than 0 \(given: '-1'\)"),
        ("finetune:\n  epochs: many\n", r"config.yaml:2 finetune.epochs: .*number.*\(given: 'many'\)"),
        ("finetune:\n  backend: tensorflow\n", r"config.yaml:2 finetune.backend: .*'auto', 'unsloth' or 'peft'"),
        ("finetune:\n  batch_size: 3\n", r"config.yaml:2 finetune.batch_size: unknown key: did you mean tokens_per_batch\?"),
        ("finetune:\n  tokens_per_batch: 0\n", r"config.yaml:2 finetune.tokens_per_batch: .*greater than or equal to 1"),
        ("finetune:\n  load_in_4bit: maybe\n", r"config.yaml:2 finetune.load_in_4bit: .*valid boolean"),
        ("finetune:\n  vram_gb: 0\n", r"config.yaml:2 finetune.vram_gb: .*greater than 0"),
        ("finetune:\n  validation_share: 0.5\n", r"config.yaml:2 finetune.validation_share: .*less than 0.5"),
        ("finetune:\n  early_stopping_patience: 0\n", r"config.yaml:2 finetune.early_stopping_patience: .*greater than or"),
        ("finetune:\n  over_length: trim\n", r"config.yaml:2 finetune.over_length: .*'error', 'drop' or 'trim_context'"),
        ("finetune:\n  save_steps: 3\n  logging_steps: 2\n", r"save_steps 3 is not a multiple of logging_steps 2"),
        ("finetune: 3\n", r"config.yaml:1 finetune: .*"),
        ("prompt:\n  template: no places\n", r"config.yaml:2 prompt.template: must hold \{context\} exactly once"),
        ("prompt:\n  citation: '[S]'\n", r"config.yaml:2 prompt.citation: must hold \{number\} exactly once"),
        ("prompt:\n  template_file: none.txt\n", r"none.txt is missing"),
        ("generate:\n  masking:\n    patterns: {SITE: '('}\n", r"generate.masking.patterns.*is no regular expression"),
        ("generate:\n  masking:\n    patterns: {SITE: 'x*'}\n", r"generate.masking.patterns.*matches nothing at all"),
        ("generate:\n  masking:\n    patterns: {site: 'x'}\n", r"generate.masking.patterns"),
        ("generate:\n  masking:\n    kinds: [name]\n", r"generate.masking.kinds.*'card'"),
        ("generate:\n  teacher:\n    budget_usd: 0\n", r"generate.teacher.budget_usd: .*greater than 0"),
        ("generate:\n  index:\n    text: ''\n", r"config.yaml:3 generate.index.text"),
        ("generate:\n  context:\n    golden_less_share: 1\n", r"generate.context.golden_less_share: .*less than 1"),
        ("evaluate:\n  smallest_difference: 1\n", r"config.yaml:2 evaluate.smallest_difference: .*less than 1"),
        ("evaluate:\n  bootstrap_samples: 1\n", r"evaluate.bootstrap_samples: .*greater than or equal to 100"),
        ("evaluate:\n  ollama_url: localhost:11434\n", r"evaluate.ollama_url: must be an http or https address"),
        ("generate:\n  teacher:\n    base_url: https://me:secret@host/v1\n", r"must hold no user name, password or key"),
        ("work_dir: .\nwork_dir: ..\n", r"config.yaml:2 work_dir: stands twice, also in line 1"),
        ("- a\n- b\n", r"must hold keys such as work_dir"),
        ("a: [1\n", r"config.yaml:\d+ is not YAML"),
        ("finetune:\n\tepochs: 1\n", r"config.yaml:2 a tab stands where YAML wants blanks"),
    ],
)
def test_problem_names_file_line_and_key(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(PipelineError) as problem:
        load_text(tmp_path, text)
    assert re.search(expected, str(problem.value))
    assert "secret" not in str(problem.value) or "password" in str(problem.value)


@pytest.mark.parametrize(("value", "names"), [("null", []), ("[]", []), ("a.jsonl", ["a.jsonl"]), ("[a.jsonl, b.jsonl]", 2)])
def test_a_list_of_files_may_be_one_file_or_null(tmp_path: Path, value: str, names: object) -> None:
    cases = load_text(tmp_path, f"evaluate:\n  own_cases: {value}\n").evaluate.own_cases
    assert len(cases) == names if isinstance(names, int) else [path.name for path in cases] == names


@pytest.mark.parametrize(("message", "expected"), [
    ("config.yaml evaluate.seed is 1: put 2", "{path}:2 evaluate.seed is 1: put 2"),
    ("config.yaml evaluate.seed: odd", "{path}:2 evaluate.seed: odd"),
    ("config.yaml export.name is odd", "{path} export.name is odd"),  # not written there: a default
    ("seed in config.yaml is odd", "seed in config.yaml is odd"),
])
def test_a_later_message_about_a_key_has_file_and_line_too(tmp_path: Path, message: str, expected: str) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("evaluate:\n  seed: 1\n")
    load_config(path)
    assert name_place(message) == expected.format(path=path)


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as problem:
        load_text(tmp_path, "finetune:\n  epochs: -1\n  lora_r: 0\n  sed: 1\nexport:\n  name: 'A B'\n")
    assert [key for key in ("epochs", "lora_r", "sed", "export.name") if key in str(problem.value)] == [
        "epochs", "lora_r", "sed", "export.name",
    ]


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"config.yaml is missing: run in the project's folder"):
        load_config(tmp_path / "config.yaml")


# -----------------------------------------------------------------------------
# The template's own file


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_template_file_is_the_template_less_the_editors_last_line_feed(tmp_path: Path, ending: str) -> None:
    template = "Read:\n{context}\n\nAsked: {question}\n\nAnswer:"
    (tmp_path / "t.txt").write_bytes((template.replace("\n", ending or "\n") + ending).encode("utf-8-sig"))
    assert load_text(tmp_path, "prompt:\n  template_file: t.txt\n").prompt.template == template


def test_template_file_is_read_beside_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.txt").write_text("{context} {question}", encoding="utf-8")
    monkeypatch.chdir("/")
    assert load_text(tmp_path, "prompt:\n  template_file: t.txt\n").prompt.template == "{context} {question}"


def test_template_file_wins_over_the_template_that_config_yaml_ships(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("{context} {question}", encoding="utf-8")
    text = "prompt:\n  template_file: t.txt\n  template: 'Ask: {context}{question}'\n"
    assert load_text(tmp_path, text).prompt.template == "{context} {question}"


def test_template_file_with_a_missing_placeholder_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("{context}", encoding="utf-8")
    with pytest.raises(PipelineError, match=r"prompt.template: must hold \{question\} exactly once"):
        load_text(tmp_path, "prompt:\n  template_file: t.txt\n")


def test_a_shape_without_tags_and_without_refusals_is_allowed(tmp_path: Path) -> None:
    prompt = load_text(tmp_path, "prompt:\n  citation: ''\n  refusal: ''\n").prompt
    assert (prompt.citation, prompt.refusal, prompt.general_knowledge) == ("", "", "")


# -----------------------------------------------------------------------------
# Windows


def test_number_that_yaml_reads_as_text(tmp_path: Path) -> None:
    assert yaml.safe_load("2e-4") == "2e-4"
    assert load_text(tmp_path, "finetune:\n  learning_rate: 2e-4\n").finetune.learning_rate == 0.0002


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (r'"D:\FineTuning"', r"config.yaml:1 a backslash in double quotes is an escape: write the path with forward slashes"),
        (r'"D:\new\table"', r"work_dir: a backslash in double quotes became a control character.*forward slashes"),
    ],
)
def test_backslash_in_double_quotes(tmp_path: Path, path: str, expected: str) -> None:
    with pytest.raises(PipelineError) as problem:
        load_text(tmp_path, f"work_dir: {path}\n")
    assert re.search(expected, str(problem.value))


def test_byte_order_mark_of_powershell(tmp_path: Path) -> None:
    assert load_text(tmp_path, "finetune:\n  seed: 7\n", "utf-8-sig").finetune.seed == 7


def test_utf_16_of_powershell_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="UTF-16, as PowerShell"):
        load_text(tmp_path, "finetune:\n  seed: 7\n", "utf-16")


def test_crlf(tmp_path: Path) -> None:
    assert load_text(tmp_path, "prompt:\r\n  refusal: No.\r\n").prompt.refusal == "No."


# -----------------------------------------------------------------------------
# Paths


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_text(tmp_path, "work_dir: out\ngenerate:\n  curated_files: [mine.jsonl]\n")
    assert config.work_dir == tmp_path / "out"
    assert config.generate.curated_files == (tmp_path / "mine.jsonl",)


def test_default_paths_are_relative_to_the_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert load_text(tmp_path, "").generate.questions_file == tmp_path / "domain_questions.yaml"
    assert load_text(tmp_path, "generate:\n  top_k: 3\n").generate.questions_file == tmp_path / "domain_questions.yaml"


@pytest.mark.parametrize(
    ("name", "is_path"),
    [("unsloth/Phi-4-mini-instruct", False), ("./student", True), ("student", True), ("nomic-embed-text:latest", False)],
)
def test_model_is_a_folder_or_a_hub_id(tmp_path: Path, name: str, is_path: bool) -> None:
    (tmp_path / "student").mkdir()
    model = load_text(tmp_path, f"finetune:\n  base_model: '{name}'\n").finetune.base_model
    assert model == (str(tmp_path / "student") if is_path else name)


def test_description_holds_no_machine_path(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    text = "work_dir: out\nfinetune:\n  base_model: ./student\ngenerate:\n  index_folder: out/index\n  questions_file: q.yaml\n"
    config = load_text(tmp_path, text)
    described = str([config.describe(section) for section in ("generate", "finetune", "export", "evaluate")])
    assert str(tmp_path) not in described
    assert config.value_of("finetune.base_model") == "student"
    assert config.value_of("generate.index_folder") == "index"


def test_config_is_frozen(tmp_path: Path) -> None:
    config = load_text(tmp_path, "")
    with pytest.raises(Exception, match="frozen"):
        config.finetune.seed = 1


def test_a_stock_model_outside_the_work_folder_is_described_by_its_name_alone(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"evaluate: {{stock_model: {(tmp_path.parent / 'today.gguf').as_posix()}}}")
    assert load_config(tmp_path / "config.yaml").describe("evaluate")["stock_model"] == "today.gguf"
