"""Documents in which tokenizers disagree if they can: invented, with a fixed seed."""
# ruff: noqa: RUF001

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

PLAIN = (
    "The inspector's log isn't complete; we'll replace it, they've said, and I'm sure you'd agree it's fine.",
    "WE'RE SURE THAT IT'S FINE, AREN'T WE? DON'T! 'Tis what he'D said, 'RE you sure?",
    "pump P-101A runs at 1,450 rpm (3.5 bar) from 08:30 to 17:45 on 2024-03-09, cf. ISO 9001:2015 §4.2",
    "camelCaseWords and HTTPServerError, snake_case_name, kebab-case-name, ALLCAPS42 x2y3z4 McDonald",
)
CODE = (
    "def area(r: float) -> float:\n\treturn 3.14159 * r ** 2  # m^2\n\n\nif True:\n    print(f'{area(2):.3f}')\n",
    "for (int i = 0; i < n; ++i) {\r\n    sum += a[i] * b[i];\r\n}\r\n",
    '{"a": [1, 2.5, -3e-7], "b": {"c": null, "d": "x\\ty"}, "path": "C:\\\\Temp\\\\new"}',
    "SELECT * FROM t WHERE x != 'y''z' AND n <= 10; -- done",
    "<table><tr><td>1</td><td>2</td></tr></table> <h1>Title</h1><strong>x</strong>&nbsp;<!-- no -->",
)
LINKS = (
    "https://example.org/a/b?c=1&d=%20x#frag", "mailto:jane.doe@example.org", "\\\\server\\share\\file (1).txt",
    "../x/./y//z.tar.gz",
)
SCRIPTS = (
    "水泵每250小时检查一次，温度不超过80摄氏度。", "ポンプの点検は「毎日」行います。カタカナ、ひらがな",
    "펌프를 매일 점검하십시오. 안전 제일",
    "تُفحَص المضخة كل ٢٥٠ ساعة، إن شاء الله.", "המשאבה נבדקת בכל יום.", "पंप की जाँच हर दिन होती है।", "ปั๊มตรวจสอบทุกวัน",
    "Насос проверяют каждые 250 часов; ЁЛКА", "Η αντλία ελέγχεται κάθε μέρα. ΑΝΤΛΊΑ", "Çalışma süresi İstanbul ığdır",
    "Größe, Übermaß, ẞtraße", "déjà vu, naïve façade, cœur, L'ÉCOLE, ÀÉÎ", "Tiếng Việt có dấu",
    "кнопкаСтарт ÉtatÉtat größeÜber ΩμέγαΩ",
    "ǅungla ǈ ʰ ª º ⅷ Ⅻ ½ ² ³ ٣ ४ 五",
)
MARKS = ("e\u0301cole", "a\u0308o\u0308", "n\u0303", "A\u030a", "\u0301start", "क्षि", "ก็", "z\u0351\u036b\u0343a\u030al")
EMOJI = ("😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "✅", "☃️", "🚀🚀🚀", "❤️‍🔥", "1️⃣")
SYMBOLS = (
    "…", "—", "„quoted“", "«x»", "€5", "±0.5 µm", "→", "∑x²", "°C", "¿qué?", "™", "\u00a0", "\u2009", "\u200b", "\ufeff",
    "\u3000", "\u2028",
)
SPACES = (
    " ", "  ", "   ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", " \n", "\n ", "  \n\n  ", "\t \t", " " * 17, "\n" * 9,
    "\t" * 11,
)
CONTROLS = ("\x01", "\x07", "\x08", "\x0b", "\x0c", "\x1b[0m", "\x7f", "\x85", "\ue000", "\ufffd", "\U0010fffd")
NUMBERS = (
    "0", "7", "42", "333", "1234", "12345678901234567890", "1.000.000,50", "0x1F", "1e-9", "10²", "3/4", "٤٢", "1st", "2nd",
    "v1.2.3",
)
PUNCTUATION = (
    "...", "!!!", "?!", "--", "======", "''''", "``", '"""', "()", "[[x]]", "{}", "<>", "$$", "^~|", "\\n", "@#%&*", "/*x*/",
    "//", "'", "'s",
)
KINDS: tuple[Sequence[str], ...] = (PLAIN, CODE, LINKS, SCRIPTS, MARKS, EMOJI, SYMBOLS, SPACES, CONTROLS, NUMBERS, PUNCTUATION)


def invent_documents(count: int, *, seed: int, special: Sequence[str] = (), keep: Callable[[str], bool] = bool) -> list[str]:
    """
    `count` different texts of up to a few hundred characters.

    special: texts of special tokens, strewn in between. keep: whether a document counts.
    """
    rng = random.Random(seed)
    kinds = [kind for kind in (*KINDS, special) if kind]
    documents: dict[str, None] = {}
    while len(documents) < count:
        document = invent_document(rng, kinds)
        if keep(document):
            documents[document] = None
    return list(documents)


def invent_document(rng: random.Random, kinds: Sequence[Sequence[str]]) -> str:
    """Fragments of random kinds, with or without a space between, sometimes cut anywhere or with white space at an end."""
    parts = [rng.choice(rng.choice(kinds)) for _ in range(rng.randint(1, 9))]
    text = "".join(part + rng.choice(("", "", " ", " ", "  ", "\n")) for part in parts)
    if rng.random() < 0.3:
        text = text[rng.randrange(len(text)):]
    return rng.choice(("", "", " ", "\n")) + text + rng.choice(("", "", " ", "  ", "\n", "\n\n", "\t"))
