"""Names, things, numbers and invented words, split between training and evaluation.

An *entity* (a name, a place, an invented word) belongs to the evaluation when a hash of
its letters says so, and to the training otherwise; so no list can leak into the other
side, whichever generator makes it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

HELD_BACK_SHARE_PERCENT = 15
"""Share of all entities that only the evaluation sees."""


def word_list(text: str) -> tuple[str, ...]:
    """The words of a text, in their order."""
    return tuple(text.split())


FIRST_NAMES = word_list(
    "Ada Alba Amir Anna Arjun Astrid Ben Bella Boris Carla Cem Chloe Clara Dana Daniel Diego Edda Eli Elena Emil "
    "Erik Esther Farid Fatima Felix Fiona Frida Gita Grace Greta Hana Hassan Hugo Ida Igor Ines Iris Ivan Jack "
    "Jana Jonas Julia Kai Karim Kate Kenji Lara Lena Leo Lina Lucas Luis Maja Marco Maria Martin Mei Mia Milan "
    "Mira Nadia Nina Noah Nora Olaf Olga Omar Oscar Paula Pedro Petra Priya Rafael Rania Rosa Ruben Ruth Salim "
    "Samir Sara Sofia Stefan Sven Tara Theo Tom Uma Vera Victor Wanda Yara Yusuf Zara Zoe Henry Alice Oliver "
    "Emma Liam George Laura Peter Simon Helen David Rachel Ravi Anita Chen Ling Tariq Leila Bruno Marta"
)
LAST_NAMES = word_list(
    "Abbott Ahmed Alvarez Andersen Baker Bauer Becker Berg Bianchi Brandt Brown Carter Castro Chen Costa Cruz "
    "Dahl Davies Diaz Duarte Eriksen Evans Farkas Fischer Fontaine Foster Garcia Gomez Gray Gupta Haas Hansen "
    "Hughes Ibrahim Ito Jansen Jensen Kaya Keller Khan Kim Klein Kovacs Kumar Larsen Laurent Lee Lopez Lund "
    "Mansour Marino Mason Mehta Meyer Moreau Moretti Nakamura Nguyen Nilsson Novak Ortega Osman Palmer Park "
    "Patel Perez Petrov Quinn Rahman Ramos Reyes Richter Rossi Santos Sato Schmidt Shah Silva Singh Smith Sokolov "
    "Tanaka Taylor Torres Turner Vargas Vidal Vogel Wagner Walsh Weber Weiss Wright Yamada Yilmaz Young Zhang"
)
TOWNS = word_list(
    "Aarhus Accra Ankara Antwerp Athens Austin Bergen Berlin Bern Bilbao Bogota Boston Bremen Bristol Brno "
    "Bruges Cairo Calgary Cardiff Chicago Cork Dakar Dallas Delhi Denver Derby Dover Dresden Dublin Dundee "
    "Edinburgh Essen Exeter Geneva Genoa Ghent Glasgow Graz Hamburg Hanoi Havana Helsinki Izmir Jaipur Kassel "
    "Kiel Krakow Kyoto Lagos Leeds Leipzig Lima Linz Lisbon London Lyon Madrid Malmo Manila Milan Munich Nairobi "
    "Nantes Naples Odense Oslo Oxford Palermo Paris Perth Porto Prague Quito Reading Riga Rome Seattle Seoul "
    "Seville Sofia Split Tampere Tartu Tokyo Toronto Tunis Turin Utrecht Valencia Venice Vienna Vilnius Warsaw "
    "York Zagreb Zurich"
)
COLOURS = word_list("red blue green yellow white black grey orange purple brown pink silver")
DAYS = word_list("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = word_list("January February March April May June July August September October November December")
THINGS = word_list(
    "crates boxes barrels pallets chairs tables lamps bicycles books folders printers cables tyres bottles "
    "blankets parcels sensors batteries engines pumps valves tools tents maps keys helmets radios cameras "
    "monitors desks shelves bags cups plates coats gloves seeds trees windows doors carpets clocks"
)
ANIMALS = word_list("cat dog horse cow sheep goat rabbit parrot owl fox turtle donkey duck goose pony hamster")
MATERIALS = word_list("steel wood glass copper stone brick clay paper cotton wool leather plastic concrete marble")
JOBS = word_list(
    "manager engineer gardener nurse driver teacher librarian cook pilot accountant designer technician "
    "secretary director guard mechanic chemist editor painter carpenter electrician plumber doctor"
)

_ONSETS = word_list(
    "b d f g h j k l m n p r s t v w z "
    "b c d f g h j k l m n p r s t v w z br bl ch cl cr dr fl fr gl gr kl kr pl pr qu sh sk sl sn sp st str "
    "sw th tr tw vr wh"
)
_VOWELS = word_list("a e i o u a e i o u ai au ea ee ei ia ie io oa oo ou ue y")
_CODAS = [*([""] * 14), *word_list("b d g k l m n p r s t x ck ft ld lf lm lt mp nd ng nk nt rd rk rn rt sk st th")]


def is_held_back(word: str) -> bool:
    """Whether only the evaluation may use this entity."""
    digest = hashlib.sha256(word.casefold().encode()).digest()
    return digest[0] * 100 < HELD_BACK_SHARE_PERCENT * 256


class Entities:
    """Draws entities from one side of the split."""

    def __init__(self, rng: random.Random, *, held_back: bool) -> None:
        self.rng = rng
        self.held_back = held_back

    def allowed(self, word: str) -> bool:
        """Whether this word is on our side."""
        return is_held_back(word) == self.held_back

    def pick(self, words: Sequence[str]) -> str:
        """One word of our side of a list."""
        return self.draw(lambda: self.rng.choice(words))

    def draw(self, make: Callable[[], str]) -> str:
        """The first word of our side that ``make`` yields."""
        while True:
            word = make()
            if self.allowed(word):
                return word

    def invented(self, *, capital: bool = True) -> str:
        """A word of two or three invented syllables."""

        def make() -> str:
            count = self.rng.choice((1, 2, 2, 2, 3))
            parts = [self._syllable() for _ in range(count)]
            return "".join(parts)

        word = self.draw(lambda: _long_enough(make))
        return word.capitalize() if capital else word

    def _syllable(self) -> str:
        rng = self.rng
        return rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)

    def person(self) -> str:
        """A first name, a full name or an invented one."""
        kind = self.rng.random()
        first = self.pick(FIRST_NAMES) if kind < 0.8 else self.invented()
        if self.rng.random() < 0.55:
            return first
        last = self.pick(LAST_NAMES) if self.rng.random() < 0.6 else self.invented()
        return f"{first} {last}"

    def place(self) -> str:
        """A town, real or invented."""
        return self.pick(TOWNS) if self.rng.random() < 0.55 else self.invented()

    def brand(self) -> str:
        """An invented proper name of one or two words."""
        name = self.invented()
        return name if self.rng.random() < 0.6 else f"{name} {self.invented()}"

    def code(self) -> str:
        """A reference such as ``KX-4417``."""
        rng = self.rng
        letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.randint(1, 3)))
        digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(2, 4)))
        return rng.choice((f"{letters}-{digits}", f"{letters}{digits}", f"{digits}-{letters}"))

    def number(self) -> str:
        """A positive whole number, small ones more often."""
        rng = self.rng
        top = rng.choice((12, 60, 100, 999, 5000, 99999))
        value = rng.randint(2, top)
        return f"{value:,}" if value > 999 and rng.random() < 0.3 else str(value)

    def clock(self) -> str:
        """A time of day."""
        rng = self.rng
        return f"{rng.randint(0, 23):02d}:{rng.choice((0, 0, 15, 30, 45, rng.randint(1, 59))):02d}"

    def date(self) -> str:
        """A day and month, sometimes with the year."""
        rng = self.rng
        text = f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"
        return f"{text} {rng.randint(1950, 2030)}" if rng.random() < 0.4 else text


def _long_enough(make: Callable[[], str]) -> str:
    while len(word := make()) < 4:
        pass
    return word
