"""Sentences of an open kind: who does what to which thing, in words drawn at random.

They teach to find a sentence by the words that it shares with the question, whatever
the words are.
"""

from __future__ import annotations

from demo_recipe.data.words import Entities, word_list

NOUNS = word_list(
    "account answer apple bell boat bridge bucket button cable cake candle carpet cellar chain chapter circle city "
    "class cloud coin contract copy corner counter couple courier cover customer cycle dataset deck delay device "
    "document dream dress drum edge error event example field file filter fire floor flower folder forest form frame "
    "game gate guest guide hall hammer harvest hill horn house index island jacket journal judge key kitchen lake "
    "leaf lesson letter level library limit list log magazine mailbox map market mask member memory message mirror "
    "model module moon morning mountain music network node notebook number option orchard order owner packet page "
    "panel parcel park part partner password path patient pattern pencil permit phone picture pipe plan plant policy "
    "port poster process profile program prompt proof queue question record region report request result ring road "
    "roof room root rope route rule salad sample schedule screen script seat section server session shadow sheet "
    "shelf ship signal song soup spoon square stage stamp star step storm story stream street student surface system "
    "table tank task teacher team template test thread ticket token tower town track trail tube tunnel update user "
    "valley value vase version village visitor voice wall watch water wheel winter word worker yard zone"
)
VERBS = (
    ("accept", "accepts"), ("admire", "admires"), ("block", "blocks"), ("break", "breaks"), ("bring", "brings"),
    ("build", "builds"), ("carry", "carries"), ("change", "changes"), ("check", "checks"), ("clean", "cleans"),
    ("close", "closes"), ("collect", "collects"), ("compare", "compares"), ("control", "controls"),
    ("copy", "copies"), ("count", "counts"), ("cover", "covers"), ("create", "creates"), ("cut", "cuts"),
    ("deliver", "delivers"), ("describe", "describes"), ("draw", "draws"), ("drop", "drops"), ("fill", "fills"),
    ("find", "finds"), ("fix", "fixes"), ("follow", "follows"), ("guard", "guards"), ("handle", "handles"),
    ("hide", "hides"), ("hold", "holds"), ("join", "joins"), ("keep", "keeps"), ("lift", "lifts"), ("list", "lists"),
    ("load", "loads"), ("lock", "locks"), ("measure", "measures"), ("move", "moves"), ("need", "needs"),
    ("open", "opens"), ("paint", "paints"), ("plan", "plans"), ("print", "prints"), ("protect", "protects"),
    ("pull", "pulls"), ("push", "pushes"), ("read", "reads"), ("record", "records"), ("remove", "removes"),
    ("repair", "repairs"), ("replace", "replaces"), ("report", "reports"), ("return", "returns"), ("save", "saves"),
    ("see", "sees"), ("sell", "sells"), ("send", "sends"), ("set", "sets"), ("show", "shows"), ("sign", "signs"),
    ("sort", "sorts"), ("start", "starts"), ("stop", "stops"), ("store", "stores"), ("support", "supports"),
    ("test", "tests"), ("track", "tracks"), ("turn", "turns"), ("update", "updates"), ("use", "uses"),
    ("visit", "visits"), ("want", "wants"), ("wash", "washes"), ("watch", "watches"), ("write", "writes"),
)  # fmt: skip
ADJECTIVES = word_list(
    "able big black bold brave bright broken calm cheap clean clear clever cold common complete cool dark deep dirty "
    "dry early easy empty fair famous fast final fine first flat free fresh full gentle good grand great green hard "
    "heavy high hollow hot huge large last late light little local lonely long loud low main modern narrow neat new "
    "next noisy old open perfect plain poor proud public quick quiet rare ready real rich right rough round royal "
    "safe second secret sharp short simple slow small smart soft solid special strong sweet tall thick thin tiny "
    "warm weak wet wide wild wise wooden young"
)
PREPOSITIONS = word_list("in on under behind near beside before after with without above below")


def sentence_and_question(entities: Entities) -> tuple[str, str, frozenset[str]]:
    """A sentence, a question about it, and the words of the sentence that it repeats."""
    rng = entities.rng

    def noun() -> str:
        word = rng.choice(NOUNS)
        roll = rng.random()
        if roll < 0.12:
            return entities.invented(capital=False)
        return f"{rng.choice(ADJECTIVES)} {word}" if roll < 0.6 else word

    subject, thing, place = noun(), noun(), noun()
    verb, verbs = rng.choice(VERBS)
    preposition = rng.choice(PREPOSITIONS)
    who = entities.person() if rng.random() < 0.3 else f"the {subject}"
    tail = rng.choice(("", f" {preposition} the {place}", f" at {entities.clock()}", f" {entities.number()} times"))
    if rng.random() < 0.2:
        text = f"the {thing} of {who} is {rng.choice(ADJECTIVES)}{tail}"
        plain = [
            f"What is the {thing} of {who} like?",
            f"How is the {thing} of {who}?",
            f"Tell me about the {thing} of {who}.",
        ]
        return _close(text), _capital(rng.choice(plain)), _words(f"{thing} {who}")
    text = f"{who} {verbs} the {thing}{tail}"
    asks = [
        (f"what does {who} {verb}?", f"{who} {verbs}"),
        (f"who {verbs} the {thing}?", f"{verbs} {thing}"),
        (f"which one {verbs} the {thing}?", f"{verbs} {thing}"),
        (f"what happens with the {thing}?", thing),
        (f"what is said about the {thing}?", thing),
        (f"what about {who}?", who),
        (f"does {who} {verb} the {thing}?", f"{who} {verbs} {thing}"),
    ]
    if tail:
        asks.append((f"where, when or how does {who} {verb} the {thing}?", f"{who} {verbs} {thing}"))
    question, shared = rng.choice(asks)
    return _close(text), _capital(question), _words(shared)


def _words(text: str) -> frozenset[str]:
    return frozenset(word for word in text.split() if word != "the")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _close(text: str) -> str:
    return _capital(text) + "."
