"""Words behind a number: which are units, and when two are the same."""

from posttrain.verifiers.math_tokens import Unreadable

# Words that change the value of the number before them, or continue the answer.
_NOT_UNITS = frozenset(
    "hundred thousand million billion trillion dozen half halves third thirds quarter quarters fourth fourths fifth "
    "fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths thousandth "
    "thousandths squared cubed factorial times plus minus over divided root roots power mod modulo not no none "
    "never or and to than less more most least about approximately base prime negative positive if when where from "
    "between except but with without percentile infinity sqrt log ln sin cos tan choose exp max min lim undefined "
    "pi true false wrong".split()
)
_SYNONYMS = {
    **dict.fromkeys(["centimeter", "centimetre"], "cm"),
    **dict.fromkeys(["millimeter", "millimetre"], "mm"),
    **dict.fromkeys(["kilometer", "kilometre"], "km"),
    **dict.fromkeys(["meter", "metre"], "m"),
    **dict.fromkeys(["inch", "inche"], "in"),
    **dict.fromkeys(["foot", "feet"], "ft"),
    **dict.fromkeys(["yard"], "yd"),
    **dict.fromkeys(["mile"], "mi"),
    **dict.fromkeys(["hour", "hr"], "h"),
    **dict.fromkeys(["minute"], "min"),
    **dict.fromkeys(["second", "sec"], "s"),
    **dict.fromkeys(["gram"], "g"),
    **dict.fromkeys(["kilogram"], "kg"),
    **dict.fromkeys(["pound"], "lb"),
    **dict.fromkeys(["ounce"], "oz"),
    **dict.fromkeys(["liter", "litre"], "l"),
    **dict.fromkeys(["usd", "buck"], "dollar"),
    **dict.fromkeys(["deg", "°"], "degree"),
    **dict.fromkeys(["sq"], "square"),
    **dict.fromkeys(["people", "persons"], "person"),
}
# Short forms, which would otherwise be read as products of letters.
_SHORT = frozenset(
    "cm mm km ft in yd mi kg mg lb lbs oz ml mL mph kph hr hrs min sec usd USD cent deg sq cu per units unit".split()
)


def is_unit(word: str) -> bool:
    """Whether a run of bare letters reads as a unit: a known short form, or a word of four letters or more that names
    no number."""
    return word in _SHORT or (len(word) > 3 and word.casefold() not in _NOT_UNITS)


def unit_name(written: str) -> str:
    """One name for a unit's spellings: lower case, singular, ``square cm`` as ``cm 2``. Raises Unreadable for what is
    none."""
    words = written.replace(".", " ").replace("-", " ").replace("/", " per ").casefold().split()
    if not words or len(words) > 6 or any(word in _NOT_UNITS for word in words):
        raise Unreadable(f"{written!r} behind a number")
    if not all(word.isalpha() or word in ("2", "3", "°") for word in words):
        raise Unreadable(f"{written!r} behind a number")
    named = [_singular(word) for word in words]
    for power, digit in (("square", "2"), ("cubic", "3")):
        if named[0] == power and len(named) == 2:
            named = [named[1], digit]
    return " ".join(named)


def _singular(word: str) -> str:
    for form in (word, word.removesuffix("s"), word.removesuffix("es")):
        if form in _SYNONYMS:
            return _SYNONYMS[form]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
