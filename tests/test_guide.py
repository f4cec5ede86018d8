"""docs/GUIDE.md: measured figures stand in the pages it cites, derived ones follow from the arithmetic beside them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distill.training.plan import Shape, count_adapter_weights
from distill.training.readiness import BYTES_PER_TRAINABLE

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "GUIDE.md").read_text(encoding="utf-8")
PHI_4_MINI = Shape(
    layers=32, hidden=3072, query=3072, key_value=1024, feed_forward=8192, vocabulary=200_064, tied=True, fused=True,
    head_norms=False, norms=2, rotary_limit=None,
)  # fmt: skip
PARAMETERS = 3_836_021_760
TOKENS_A_ROW, EPOCHS, TOKENS_PER_SECOND = 1026, 3, 20_809  # of the page's table of training times
PROMPT, ANSWER, PRICE_IN, PRICE_OUT = 1200, 250, 2e-6, 6e-6  # of its table of prices


def read_table(heading: str, column: str) -> list[list[str]]:
    """The cells of the table below a heading whose first column is called so, without its two head lines."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = section.split(f"\n| {column} |")[1].splitlines()[2:]
    rows = lines[: next((place for place, line in enumerate(lines) if not line.startswith("|")), None)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]


def read_number(text: str) -> float:
    return float(re.sub(r"[^0-9.]", "", text))


def say_minutes(minutes: float) -> str:
    return f"{minutes:.1f}" if minutes < 10 else f"{minutes:.0f}"


@pytest.mark.parametrize("cells", read_table("Rank", "lora_r"), ids=lambda cells: cells[0])
def test_ranks_follow_from_the_shape(cells: list[str]) -> None:
    weights = count_adapter_weights(PHI_4_MINI, int(cells[0]))
    assert cells[1:4] == [f"{weights:,}", f"{weights / PARAMETERS:.2%}", f"{weights * 4 / 1e6:.0f} MB"]


def test_one_unit_of_rank_is_as_the_text_says() -> None:
    assert f"{count_adapter_weights(PHI_4_MINI, 1):,}" in PAGE
    assert count_adapter_weights(PHI_4_MINI, 1) == 32 * (8192 + 6144 + 19_456 + 11_264)


@pytest.mark.parametrize("cells", read_table("Time", "rows"), ids=lambda cells: cells[0])
def test_training_times_follow_from_the_measured_speed(cells: list[str]) -> None:
    minutes = read_number(cells[0]) * TOKENS_A_ROW * EPOCHS / TOKENS_PER_SECOND / 60
    assert cells[1:] == [say_minutes(minutes * slower) for slower in (1, 5, 10, 20)]


@pytest.mark.parametrize("cells", read_table("Money", "rows"), ids=lambda cells: cells[0])
def test_prices_follow_from_tokens(cells: list[str]) -> None:
    rows = read_number(cells[0])
    once = PROMPT * PRICE_IN + ANSWER * PRICE_OUT
    twice = (2 * PROMPT + ANSWER) * PRICE_IN + 3 * ANSWER * PRICE_OUT
    assert cells[1:] == [f"${rows * once:.2f}", f"${rows * twice:.2f}"]


@pytest.mark.parametrize("cells", read_table("Which student", "student"), ids=lambda cells: cells[0])
def test_file_sizes_follow_from_the_measured_one(cells: list[str]) -> None:
    assert f"{2.49e9 / PARAMETERS:.2f}" == "0.65"
    assert cells[2] == f"{round(read_number(cells[1]) * 0.65, 1)}"


def test_sums_in_the_text_are_right() -> None:
    weights = count_adapter_weights(PHI_4_MINI, 16)
    assert f"{weights:,} weights x {BYTES_PER_TRAINABLE} bytes" in PAGE
    assert f"{weights * BYTES_PER_TRAINABLE / 1e9:.1f}" == "1.2"
    assert f"{16 * PARAMETERS / 1e9:.0f} GB for 3.84 billion" in PAGE
    cache = 2 * 32 * 8 * 128 * 2
    assert f"{cache:,} bytes a token" in PAGE and f"{cache * 4096 / 1e9:.2f} GB for 4,096 tokens" in PAGE
    assert f"{7.7 * 8000 / 100:.0f} s" in PAGE and f"{8_912_896 / weights:.0%} of the adapter" in PAGE


@pytest.mark.parametrize(
    ("figure", "page", "there"),
    [
        ("20,809 tokens/s", "BENCHMARKS", "20,809"), ("18,493 tokens/s", "BENCHMARKS", "18,493"),
        ("28,133 tokens/s", "BENCHMARKS", "28,133"), ("29,616 tokens/s", "BENCHMARKS", "29,616"),
        ("6,366 against 12,793", "BENCHMARKS", "6,366"), ("6,366 against 12,793", "BENCHMARKS", "12,793"),
        ("150 s on two cores", "BENCHMARKS", "149.9 s"), ("251 s, 791 s", "BENCHMARKS", "251 s"),
        ("251 s, 791 s", "EXPORT", "791 s"), ("55 to 68 s", "BENCHMARKS", "| 55 |"), ("55 to 68 s", "BENCHMARKS", "| 68 |"),
        ("q5_k_m 2.85 GB", "EXPORT", "| q5_k_m | 2.85 |"), ("q6_k 3.16", "EXPORT", "| q6_k | 3.16 |"),
        ("q8_0 4.08", "EXPORT", "| q8_0 | 4.08 |"), ("f16 7.68", "EXPORT", "| f16, bf16 | 7.68 |"),
        ("4.98", "BENCHMARKS", "4.98"),
        ("10.3 GB", "TRAINING", "10.3 GB"), ("12.2 GB", "TRAINING", "12.2 GB"), ("20.3 GB", "TRAINING", "20.3 GB"),
        ("14.7 billion 14", "SCALING", "| 14.7 billion (Phi-4's shape) | 14 GiB |"),
        ("1,026 tokens", "BENCHMARKS", "1,026 tokens"),
    ],
)  # fmt: skip
def test_measured_figures_stand_where_they_come_from(figure: str, page: str, there: str) -> None:
    assert figure in PAGE
    assert there in (DOCS / f"{page}.md").read_text(encoding="utf-8")


def test_contents_lead_to_every_section() -> None:
    titles = re.findall(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    headings = [title.lower().replace(",", "").replace(" ", "-") for title in titles]
    assert re.findall(r"\]\(#([^)]+)\)", PAGE) == headings


def test_glossary_is_in_order() -> None:
    words = [cells[0].lower() for cells in read_table("Glossary", "word")]
    assert words == sorted(words) and len(words) > 30
