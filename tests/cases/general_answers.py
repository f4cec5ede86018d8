"""For each general question: answers that are right, as models of several tempers give them, and answers that are wrong."""

from __future__ import annotations

REFUSAL = "The provided documents do not answer this question."
Right = Wrong = tuple[str, ...]

ANSWERS: dict[str, tuple[Right, Wrong]] = {
    "language-01": (("deep", "Deep.", 'The opposite of "shallow" is **deep**.'), ("flat", "Deeply rooted", "shallow")),
    "language-02": (("mice", "Mice [Source 1]"), ("mouses", "mouse", "Mices")),
    "language-03": (("brought", 'The past tense of "bring" is "brought".'), ("bringed", "brang", "bought")),
    "language-04": (
        (
            "better", "Better.", 'The comparative of "good" is "better".', "Better is the comparative form.",
            "good, better, best: better",
        ),
        ("gooder", "best", "more good", "good, better, best: best", "better/best"),
    ),
    "language-05": (("receive", 'The correct spelling is "receive".'), ("recieve", "receeve", "received")),
    "language-06": (("perro", "Perro."), ("gato", "perra", "chien")),
    "language-07": (("merci", "Merci!", '"Thank you" in French is "merci".'), ("gracias", "danke", "mercy")),
    "language-08": (("Wasser", "The German word for water is Wasser."), ("agua", "Wagen", "eau")),
    "language-09": (("decision", "Decision."), ("decisive", "deciding", "indecision")),
    "language-10": (("quickly", "Quickly"), ("quick", "fastly", "quickness")),
    "language-11": (
        ("words", "Actions speak louder than words.", '"Actions speak louder than words"', 'The missing word is "words".'),
        ("deeds", "noise", "swords", "In other words: sounds", "In other words, sounds"),
    ),
    "language-12": (("cat", "Cat.", "Puppy is to dog as kitten is to cat."), ("mouse", "kitten", "dog")),
    "language-13": (
        ("She is tired.", '"She\'s tired."', "she\u2019s tired"),
        ("She am tired.", "She was tired.", "I am tired."),
    ),
    "language-14": (
        ("They walked home.", 'The past tense is: "They walked home."'),
        ("They walk home.", "They have walk home."),
    ),
    "language-15": (("The lamp is not on.", "The lamp isn't on."), ("The lamp is on.", "Not the lamp.")),
    "language-16": (("for example", 'It means "for example".', "For instance"), ("that is", "and so on", "example given")),
    "language-17": (
        ("we", "We.", '"We" can replace "Anna and I".', "The pronoun is we.", "We is the pronoun."),
        ("us", "they", "I", "We can replace it with 'they'.", "us, not we"),
    ),
    "language-18": (("What time is it?", "The question is: what time is it?"), ("What is it time?", "It is what time?")),
    "language-19": (("baker", "A baker."), ("cook", "butcher", "bakery")),
    "language-20": (("to leave", "Depart", "leave"), ("come", "to stay", "arrive")),
    "arithmetic-01": (
        (
            "42", "17 + 25 = 42", "The answer is 42.", "**42**", "42 [Source 1]", "17 + 25 = 42, so the answer is 42.",
            "It is not 43 but 42.",
        ),
        ("43", "17", "24", "The sum of 17 and 25", "7, not 42", "It is not 42.", "43 rather than 42"),
    ),
    "arithmetic-02": (("55", "103 - 48 = 55."), ("-55", "65", "151")),
    "arithmetic-03": (
        ("132", "12 x 11 is\n\n132", "one hundred thirty-two", "One hundred and thirty-two."),
        ("121", "1320", "13.2", "one hundred thirty"),
    ),
    "arithmetic-04": (("24", "24.0", "Twenty-four", "144 / 6 = 24"), ("12", "2.4", "240")),
    "arithmetic-05": (("30", "15% of 200 is 30"), ("15", "300", "20")),
    "arithmetic-06": (("175", "The half of 350 is 175."), ("150", "170", "350")),
    "arithmetic-07": (("32", "2^5 = 32"), ("10", "25", "16")),
    "arithmetic-08": (
        (
            "9", "nine", "The square root of 81 is 9.", "The square root of 81 is 9, because 9\xb2 = 81.",
            "9, since 9 x 9 = 81",
        ),
        ("8", "81", "ninety", "7, not 9"),
    ),
    "arithmetic-09": (
        ("5.75", "3.5 + 2.25 = 5.75", "five point seven five"),
        ("5.5", "575", "5.70", "five point five"),
    ),
    "arithmetic-10": (("54", "9 boxes hold 54 bottles: 9 x 6 = 54"), ("45", "15", "56")),
    "arithmetic-11": (
        (
            "105", "105 minutes", "105 minutes (1 hour and 45 minutes)", "105 minutes, which is 1 hour and 45 minutes",
            "1 hour and 45 minutes, that is 105 minutes",
        ),
        ("145", "1.75", "45", "1 hour and 45 minutes"),
    ),
    "arithmetic-12": (("18", "First: 20 - 7 = 13. Then: 13 + 5 = 18."), ("32", "13", "8")),
    "arithmetic-13": (("9", "(4 + 8 + 15) / 3 = 9"), ("8", "27", "9.5")),
    "arithmetic-14": (
        (
            "180", "180 seconds", "180 seconds (3 x 60)", "180 seconds = 3 x 60 seconds", "3 x 60 = 180",
            "one hundred eighty",
        ),
        ("90", "3", "300", "60", "3 x 60"),
    ),
    "arithmetic-15": (
        ("625", "six hundred twenty-five"),
        ("725", "635", "375", "six hundred fifty-two"),
    ),
    "arithmetic-16": (("28", "28 cm", "28cm"), ("49", "14", "21")),
    "arithmetic-17": (
        ("14", "x = 14", "x + 9 = 23\nx = 23 - 9\nx = 14", "x = 14, because 14 + 9 = 23.", "$x = 14$", "x = 23 - 9 = 14"),
        ("32", "9", "x = -14", "x = 15, because 15 + 9 = 23"),
    ),
    "arithmetic-18": (("45", "Forty-five."), ("20", "40", "15")),
    "arithmetic-19": (("26", "6 + 4 x 5 = 6 + 20 = 26"), ("50", "34", "30")),
    "arithmetic-20": (
        (
            "2400", "2,400", "2400 m", "2400 m = 2.4 km", "2400 metres (2.4 x 1000)", "2 400", "two thousand four hundred",
            "2.4 km = 2400 m", "2.4 x 1000 = 2400",
        ),
        ("240", "24000", "2.4", "1000", "2 40"),
    ),
    "knowledge-01": (
        ("Paris", "The capital of France is Paris.", "Paris, not Lyon."),
        ("Lyon", "London", "Parisian", "Lyon, not Paris.", "It isn't Paris.", "Paris is wrong.", "Lyon or Paris"),
    ),
    "knowledge-02": (("Jupiter", "Jupiter is the largest planet."), ("Saturn", "Earth", "The sun")),
    "knowledge-03": (
        ("Au", "The symbol is Au, from aurum.", "Au (not Ag)", "Au, not Ag", "It is not Ag but Au."),
        ("Ag", "Gd", "Go", "Ag, not Au", "The symbol is Ag rather than Au.", "It is not Au.", "Ag or Au"),
    ),
    "knowledge-04": (("William Shakespeare", "Shakespeare wrote it."), ("Marlowe", "Charles Dickens")),
    "knowledge-05": (
        (
            "100", "100 degrees Celsius", "Water boils at 100\xb0C.", "Water boils at 100 \xb0C (212 \xb0F) at sea level.",
            "100 C (212 F)", "100 \xb0C, or 212 \xb0F", "100 degrees Celsius at 101.325 kPa", "one hundred",
        ),
        ("212", "90", "0", "212 \xb0F (not 100)", "95, not 100"),
    ),
    "knowledge-06": (("The Atlantic Ocean", "Atlantic"), ("The Pacific Ocean", "Indian", "Arctic")),
    "knowledge-07": (
        ("Carbon dioxide", "CO2", "carbon dioxide (CO2)", "CO\u2082", "CO$_2$", "$CO_2$", "carbon dioxide (CO\u2082)"),
        ("Oxygen", "Nitrogen", "carbon monoxide", "Oxygen, not carbon dioxide", "It is not CO2."),
    ),
    "knowledge-08": (("The heart", "heart"), ("The lungs", "the liver", "brain")),
    "knowledge-09": (
        ("Yen", "The Japanese yen (JPY)", "The yen is the currency of Japan."),
        ("Yuan", "Won", "Dollar", "The yen is the currency of China; Japan uses the won"),
    ),
    "knowledge-10": (("Portuguese", "Most people speak Portuguese."), ("Spanish", "Brazilian", "English")),
    "knowledge-11": (
        (
            "1945", "It ended in 1945.", "In 1945, on 2 September.", "It ended on September 2, 1945.",
            "World War 2 did not end until 1945.", "Nineteen forty-five",
        ),
        ("1939", "1918", "1944", "1939, not 1945", "In 1918, on 11 November."),
    ),
    "knowledge-12": (("Gravity", "The gravitational force of the Earth"), ("Magnetism", "Friction", "inertia")),
    "knowledge-13": (("Mercury", "mercury"), ("Lead", "Gallium", "Tin")),
    "knowledge-14": (("Leonardo da Vinci", "Da Vinci"), ("Michelangelo", "Raphael", "Picasso")),
    "knowledge-15": (
        ("The ohm", "Ohms", "\u03a9", "\u2126", "The ohm (\u03a9)"),
        ("Volt", "ampere", "watt", "Volt, not ohm"),
    ),
    "knowledge-16": (("The cheetah", "Cheetah"), ("The lion", "horse", "leopard")),
    "knowledge-17": (("Diamond", "A diamond."), ("Steel", "Quartz", "graphite")),
    "knowledge-18": (("The Sun", "They orbit the sun."), ("The moon", "Sirius", "Earth")),
    "knowledge-19": (("8", "eight", "A spider has 8 legs."), ("6", "ten", "4")),
    "knowledge-20": (
        ("Egypt", "They stand in Egypt.", "They stand not in Sudan but in Egypt."),
        ("Mexico", "Sudan", "Greece", "The pyramids are not in Egypt but in Sudan"),
    ),
    "instructions-01": (("READY", '"READY"', "READY."), ("ready", "I am READY", "READY to help")),
    "instructions-02": (
        ("stone stone stone", "`stone stone stone`"),
        ("stone stone", "stone, stone, stone", "stone stone stone stone"),
    ),
    "instructions-03": (("Yes", "yes", "Yes."), ("No", "Yes, ice is colder than steam.", "yes no")),
    "instructions-04": (("Red", "violet.", "**Green**"), ("The colour red", "Pink", "red, blue")),
    "instructions-05": (
        ("1, 2, 3, 4, 5", "1,2,3,4,5"),
        ("1 2 3 4 5", "1, 2, 3, 4", "1\n2\n3\n4\n5", "Here it is: 1, 2, 3, 4, 5"),
    ),
    "instructions-06": (("rome",), ("Rome", "rome.", "milan", "the capital is rome")),
    "instructions-07": (
        ("The sea is blue.", "Waves roll softly onto the sandy shore at dawn."),
        ("The sea is a very large body of salt water that covers most of our planet.", "Mountains are high.", "Sea."),
    ),
    "instructions-08": (
        ("Therefore, rain will fall.", "Therefore the rain stops."),
        ("Rain falls, therefore.", "Therefore, we stay at home."),
    ),
    "instructions-09": (
        ("cat; dog; cow", "lion;tiger;bear", "polar bear; foxes; blue whale", "Elephant; Tiger; Penguin."),
        (
            "cat, dog, cow", "cat; dog", "Animals: cat; dog; cow; hen", "red; green; blue", "dog; dog; dog",
            "one; two; three",
        ),
    ),
    "instructions-10": (
        ("A dog has four legs.", "four", "A dog has four legs: two in front and two behind.", "Four."),
        ("4", "A dog has 4 (four) legs.", "A dog has legs.", "four five six", "A dog has three or four legs."),
    ),
    "instructions-11": (
        ("I drink green tea at noon, over and out.", "Tea warms me. Over and out."),
        ("Over and out. I like tea.", "I like tea.", "Coffee is nice, over and out."),
    ),
    "instructions-12": (("blue-7-lamp", "`blue-7-lamp`"), ("blue 7 lamp", "Blue-7-Lamp", "The text is blue-7-lamp")),
    "instructions-13": (
        ("apple, mango, pear", "Apple, Mango, Pear."),
        ("pear, mango, apple", "apple mango pear", "apple, pear, mango"),
    ),
    "instructions-14": (
        ("The road is long.", '"The road is long."'),
        ("The road is very long.", "The road was long.", "Road long"),
    ),
    "instructions-15": (
        ("The cat sleeps.", '"The cat sleeps."'),
        ("The dog sleeps.", "The cat slept.", "Here: The cat sleeps."),
    ),
    "instructions-16": (("2", "2."), ("3", "Two", "2: apple and banana", "12")),
    "instructions-17": (("north\nsouth", "North\n\nSouth"), ("north south", "south\nnorth", "north\nsouth\neast")),
    "instructions-18": (("left", "Left.", '"left"'), ("right", "left, because 5 is greater", "left right")),
    "instructions-19": (("frogs", "Frogs."), ("green", "jump", "The second word is frogs")),
    "instructions-20": (("MADRID", "MADRID."), ("Madrid", "madrid", "MADRID IS THE CAPITAL", "BARCELONA")),
    "format-01": (
        ('{"name": "Ana", "age": 31}', '```json\n{\n  "age": 31,\n  "name": "Ana"\n}\n```'),
        ('{"name": "Ana", "age": "31"}', "name: Ana, age: 31", '{"name": "ana", "age": 31}',
         'Here you are: {"name": "Ana", "age": 31}', '{"name": "Ana"}'),
    ),
    "format-02": (("[1, 2, 3, 4]", "```\n[1,2,3,4]\n```"), ("1, 2, 3, 4", "[1, 2, 3]", '["1", "2", "3", "4"]', "[1, 2, 3, 4")),
    "format-03": (("2024-03-05", "`2024-03-05`"), ("2024-05-03", "05-03-2024", "2024-3-5")),
    "format-04": (("name,age\nBen,40", "```csv\nname, age\nBen, 40\n```"), ("Ben,40", "name;age\nBen;40", "name,age\nBen,41")),
    "format-05": (
        ("- apple\n- pear\n- fig", "* Apple\n* Kiwi\n* Red currant", "- apple\n- passion fruit\n- cherries"),
        (
            "apple\npear\nfig", "- apple\n- pear", "- apple, pear, fig", "- car\n- bus\n- dog", "- apple\n- apple\n- apple",
            "- one\n- two\n- three",
        ),
    ),
    "format-06": (
        ("1. red\n2. green\n3. blue", "1) Red\n2) Blue\n3) Pink", "1. Dark blue\n2. White\n3. Light green"),
        (
            "- red\n- green\n- blue", "1. red\n2. green", "1. red 2. green 3. blue", "1. dog\n2. cat\n3. cow",
            "1. red\n2. red\n3. red",
        ),
    ),
    "format-07": (("15:45", "**15:45**"), ("3:45", "15.45", "03:45", "15:45 pm")),
    "format-08": (
        ('{"door": false, "count": 0}',),
        ('{"door": "false", "count": 0}', '{"door": False, "count": 0}', '{"door": 0, "count": 0}'),
    ),
    "format-09": (("GOOD MORNING", "GOOD MORNING."), ("Good Morning", "good morning", "GOODMORNING")),
    "format-10": (
        ("| Name | Age |\n|------|-----|\n| Eva | 28 |", "```markdown\n| Name | Age |\n| :--- | ---: |\n| Eva  | 28  |\n```"),
        ("Name: Eva, Age: 28", "| Name | Age |\n| Eva | 28 |", "| Name | Age |\n|---|---|\n| Eva | 82 |"),
    ),
    "format-11": (("colour=red;size=10", "`colour=red;size=10`"), ("colour = red; size = 10", "colour=red,size=10", "size=10")),
    "format-12": (
        ("city: Rome\nyear: 1960", '```yaml\ncity: "Rome"\nyear: 1960\n```'),
        ("city=Rome\nyear=1960", "city: Rome, year: 1960", "city: Rome"),
    ),
    "format-13": (
        ("<note>hello</note>", "```xml\n<note>hello</note>\n```"),
        ("<note>hello", "note: hello", "<Note>hello</Note>"),
    ),
    "format-14": (('["a", "b", "c"]', "```python\n['a','b','c']\n```"), ("[a, b, c]", '("a", "b", "c")', '["a", "b"]')),
    "format-15": (("1,234,567", "1,234,567."), ("1234567", "1.234.567", "12,345,67")),
    "format-16": (("3.14", "3.14."), ("3.142", "3.1", "3,14", "About 3.14")),
    "format-17": (
        ("**stop**", "`**stop**`", "```\n**stop**\n```", "```markdown\n**stop**\n```", '"**stop**"'),
        ("stop", "*stop*", "<b>stop</b>", "`stop`", "```\nstop\n```"),
    ),
    "format-18": (("## Results", "```markdown\n## Results\n```"), ("# Results", "Results", "**Results**", "### Results")),
    "format-19": (("C:/data/logs", "`C:/data/logs`", "C:/data/logs."), (r"C:\data\logs", "/data/logs", "C://data//logs")),
    "format-20": (("one-two-three", "One-two-three."), ("one two three", "one - two - three", "one-two")),
}
