"""Words and sentences for filler, and code words to hide in it."""

from collections.abc import Sequence
from random import Random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    """
    Anna Ben Clara David Emma Felix Greta Henry Ida Jack Karen Leo Maria Nils Olga Paul Rosa Simon
    Tina Victor Wendy Xavier Yara Zoe Alice Bob Carol Dora Eric Frank Grace Hugo Irene Julia Kevin
    Laura Martin Nora Oscar Peter Robert Sara Thomas Ursula Walter
    """
)
PLACES = _words(
    """
    Paris London Berlin Rome Madrid Vienna Oslo Lisbon Athens Dublin Prague Warsaw Tokyo Cairo
    Delhi Lima Boston Chicago Toronto Sydney France Germany Italy Spain Japan China India Brazil
    Canada Norway Egypt Kenya Mexico Peru Greece Poland Sweden Texas Europe Africa Asia America
    """
)
NOUNS = _words(
    """
    house garden river mountain table window door road bridge train ship boat car bicycle horse
    dog cat bird tree forest field village city market school library book letter paper pencil
    lamp clock mirror chair kitchen bread apple soup coffee tea water stone sand cloud storm rain
    snow wind sun moon star island lake sea beach harbour tower castle church museum theatre song
    story picture camera computer engine machine hammer basket bottle box bag coat hat shoe shirt
    ring key coin ticket map plan report meeting office factory farm barn fence gate wall roof
    floor room stairs cellar attic doctor teacher farmer baker painter sailor soldier king queen
    child friend neighbour stranger guest driver pilot lawyer student system network server file
    folder program test model result error memory line number list table value day night week
    month year summer winter spring morning evening holiday dinner lunch breakfast
    """
)
ADJECTIVES = _words(
    """
    old new small large long short quiet loud bright dark warm cold dry wet clean dirty empty full
    heavy light quick slow strong weak young rich poor happy sad tired busy free open closed
    simple strange common rare deep high low wide narrow round flat sharp soft hard smooth rough
    red green blue yellow white black brown grey golden wooden broken early late good bad fine
    plain
    """
)
VERBS = _words(
    """
    walked ran waited worked slept sang laughed talked moved stopped turned stood sat fell grew
    arrived left returned stayed opened closed changed started ended looked listened smiled
    """
)
TRANSITIVE = _words(
    """
    saw found took bought sold carried painted repaired cleaned opened closed watched followed
    lost kept built moved described liked forgot remembered wanted needed broke held read wrote
    drew sent brought left passed reached visited used tested measured counted
    """
)
PREPOSITIONS = _words(
    """
    in on under behind near beside above below with without from to at over
    """
)
ADVERBS = _words(
    """
    slowly quickly often never always sometimes soon today yesterday again twice together alone
    early late carefully quietly suddenly finally usually perhaps almost still
    """
)
LINKS = (
    "However",
    "Later",
    "Then Meanwhile",
    "In the end",
    "After that",
    "For example",
    "Of course",
    "Before long",
    "Because of this",
    "On the other hand",
    "At first",
    "As a rule,",
)
_ONSETS = _words(
    """
    b c d f g h j k l m n p r s t v w z br cr dr fl gr pl pr sh st th tr ch
    """
)
_VOWELS = _words(
    """
    a e i o u a e i o ai ea ou
    """
)
_CODAS = ("", "", "", "n", "r", "s", "l", "t", "m", "x", "nd", "st")

CODE_WORDS = _words(
    """
    tulip marble falcon copper velvet harbor walnut saffron lantern pebble orchid thunder meadow
    anchor violet pepper cobalt hazel ember willow maple cedar amber coral ivory jasmine indigo
    crimson scarlet silver bronze granite quartz topaz emerald sapphire diamond crystal feather
    raven sparrow eagle heron swan otter badger beaver rabbit panther tiger leopard dolphin salmon
    lobster turtle lizard dragon phoenix griffin unicorn wizard knight archer pirate captain
    admiral comet meteor planet galaxy nebula saturn jupiter mercury venus orbit rocket shuttle
    compass sextant telescope prism magnet battery piston turbine propeller glacier volcano canyon
    desert oasis tundra jungle savanna prairie lagoon delta cavern summit ridge valley cinnamon
    ginger nutmeg vanilla paprika mustard pumpkin carrot radish turnip spinach mango papaya lemon
    cherry almond hazelnut cashew chestnut banjo violin trumpet clarinet piano organ cymbal
    """
)
HELD_OUT_CODE_WORDS = _words(
    """
    marigold juniper obsidian cathedral pineapple labyrinth accordion hurricane butterfly cardinal
    gondola tangerine porcupine zeppelin magnolia lighthouse peppermint crocodile buttercup
    avalanche sycamore bumblebee nightingale cucumber parachute
    """
)


def pseudo_word(rng: Random, syllables: int | None = None) -> str:
    """A pronounceable word that nobody has heard."""
    count = syllables or rng.choice((1, 2, 2, 3))
    return "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(count)
    )


def glued_word(rng: Random, pieces: Sequence[str], most: int = 4) -> str:
    """Up to `most` tokens stuck together: whatever a word is made of has to be copied."""
    count = min(most, rng.choice((1, 2, 2, 3, 3, 4)))
    return "".join(rng.choice(pieces) for _ in range(count))


def code_word(rng: Random, held_out: bool = False, pieces: Sequence[str] = ()) -> str:
    """A word from a list, an invented one, or letters and digits; in any case of letters.

    Where `pieces` of words are given, most words are glued from them.
    """
    words = HELD_OUT_CODE_WORDS if held_out else CODE_WORDS
    kind = rng.random()
    if pieces and rng.random() < 0.6:
        word = glued_word(rng, pieces)
        if rng.random() < 0.5:  # many rare tokens to copy at once
            more = (glued_word(rng, pieces, 2) for _ in range(rng.randint(1, 15)))
            word = " ".join((word, *more))
    elif kind < 0.35:
        word = rng.choice(words)
    elif kind < 0.7:
        word = pseudo_word(rng, rng.choice((2, 2, 3)))
    elif kind < 0.85:
        word = "".join(
            rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(rng.randint(4, 7))
        )
        return word if rng.random() < 0.5 else f"{word[:2]}-{word[2:]}"
    elif kind < 0.92:
        return str(rng.randint(1000, 999_999))
    else:
        word = f"{rng.choice(ADJECTIVES)} {rng.choice(words)}"
    return rng.choice((word, word, word.upper(), word.capitalize()))


def noun_phrase(rng: Random) -> str:
    noun = rng.choice(NOUNS) if rng.random() < 0.85 else pseudo_word(rng)
    if rng.random() < 0.45:
        noun = f"{rng.choice(ADJECTIVES)} {noun}"
    return f"{rng.choice(('the', 'the', 'a', 'this', 'every', 'my', 'our', 'his', 'her'))} {noun}"


def sentence(rng: Random) -> str:
    """One sentence of filler, sometimes a line of another kind."""
    kind = rng.randrange(16)
    subject = rng.choice(NAMES) if rng.random() < 0.4 else noun_phrase(rng)
    if kind < 4:
        text = f"{subject} {rng.choice(TRANSITIVE)} {noun_phrase(rng)}"
    elif kind < 7:
        text = f"{subject} {rng.choice(VERBS)} {rng.choice(PREPOSITIONS)} {noun_phrase(rng)}"
    elif kind < 9:
        text = f"{subject} was {rng.choice(ADJECTIVES)} and {rng.choice(ADJECTIVES)}"
    elif kind < 10:
        text = f"{rng.choice(LINKS)} {subject} {rng.choice(TRANSITIVE)} {noun_phrase(rng)}"
    elif kind < 11:
        text = f"in {rng.choice(PLACES)} {subject} {rng.choice(ADVERBS)} {rng.choice(VERBS)}"
    elif kind < 12:
        text = f"there were {rng.randint(2, 999)} {rng.choice(NOUNS)}s "
        text += f"{rng.choice(PREPOSITIONS)} {noun_phrase(rng)}"
    elif kind < 13:
        words = (pseudo_word(rng) for _ in range(rng.randint(3, 9)))
        text = " ".join(words)
    elif kind < 14:
        text = f'{subject} said: "{noun_phrase(rng)} {rng.choice(VERBS)} {rng.choice(ADVERBS)}"'
    elif kind < 15:
        text = f"the {rng.choice(NOUNS)} number {rng.randint(1, 9999)} is {rng.choice(ADJECTIVES)}"
    else:
        pairs = (
            f"{rng.choice(NOUNS)}_{rng.choice(NOUNS)} = {rng.randint(0, 999)}" for _ in range(2)
        )
        return "; ".join(pairs) + "."
    text = text[0].upper() + text[1:] if rng.random() < 0.9 else text
    return text + rng.choice(("." * 1, ".", ".", ".", "!", "?", ";", ","))


def filler(rng: Random, sentences: int) -> list[str]:
    """Sentences with the spaces or line ends that follow them."""
    style = rng.choice((" ", " ", "\n", "mixed"))
    return [
        sentence(rng) + (rng.choice((" ", " ", " ", "\n", "\n\n")) if style == "mixed" else style)
        for _ in range(sentences)
    ]
