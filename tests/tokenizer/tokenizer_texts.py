"""Text for the tokenizer tests."""

import unicodedata

from hypothesis import strategies as st

from minigpt.data.shakespeare import Shakespeare

# Engines carry different versions of Unicode, so that they disagree about letters of the last few
# years; what was assigned in Unicode 3.2 is the same in all of them.
OLD = unicodedata.ucd_3_2_0
old_characters = st.characters(exclude_categories=["Cs"]).filter(lambda c: OLD.category(c) != "Cn")
any_text = st.text(st.characters(exclude_categories=["Cs"]))
old_text = st.text(old_characters, max_size=60)
# Few letters, so that pairs repeat, with everything that the pattern treats apart.
dense_text = st.text("aab'sS \n\r\t.,12é漢", max_size=200)


def play(characters: int = 200_000) -> str:
    """The beginning of Hamlet."""
    document = next(Shakespeare([], plays=["hamlet"]).documents())
    assert isinstance(document.text, str)
    return document.text[:characters]
