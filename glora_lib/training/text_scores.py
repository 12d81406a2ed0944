"""Scores of generated sentences against several references: BLEU, NIST, METEOR, ROUGE-L and CIDEr, by maintained packages.

What the E2E challenge's own script computes, as near as packages allow: BLEU by sacrebleu (13a tokens, case ignored), NIST by
nltk, the rest by pycocoevalcap on lower-cased words and punctuation. METEOR is version 1.5 with its own tables and needs Java;
without it the score is left out.
"""

import re
import shutil
from collections.abc import Sequence

METRICS = ("bleu", "nist", "meteor", "rouge_l", "cider")
WORDS = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def words(text: str) -> list[str]:
    """Return the words and marks of a text in small letters."""
    return WORDS.findall(text.lower())


def text_scores(texts: Sequence[str], references: Sequence[Sequence[str]], meteor: bool = True) -> dict[str, float]:
    """Return the five scores, as in the paper's table: BLEU, METEOR and ROUGE-L times 100, NIST and CIDEr as they are.

    `meteor=False` leaves out METEOR, whose tables take seconds to read.
    Raises ValueError for no text, and for texts and references that differ in number.
    """
    if not texts or len(texts) != len(references) or not all(references):
        raise ValueError(f"{len(texts)} texts need as many lists of references, none empty; found {len(references)}")
    import sacrebleu
    from nltk.translate.nist_score import corpus_nist
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    most = max(map(len, references))
    streams = [[refs[place] if place < len(refs) else None for refs in references] for place in range(most)]
    tokens, answers = [words(text) for text in texts], [[words(ref) for ref in refs] for refs in references]
    spaced = {number: [" ".join(text)] for number, text in enumerate(tokens)}
    wanted = {number: [" ".join(ref) for ref in refs] for number, refs in enumerate(answers)}
    try:
        nist = corpus_nist(answers, tokens, n=5)
    except ZeroDivisionError:  # nothing matches, or a text is too short for five words in a row
        nist = 0.0
    found = {
        "bleu": sacrebleu.corpus_bleu(list(texts), streams, lowercase=True).score,
        "nist": float(nist),
        "rouge_l": 100 * float(Rouge().compute_score(wanted, spaced)[0]),
        "cider": float(Cider().compute_score(wanted, spaced)[0]),
    }
    if meteor and shutil.which("java"):
        found["meteor"] = 100 * _meteor(wanted, spaced)
    return found


def _meteor(wanted: dict, spaced: dict) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    meteor = Meteor()
    try:
        return float(meteor.compute_score(wanted, spaced)[0])
    finally:
        meteor.meteor_p.kill()  # a process of Java; the package ends it only when it is collected
        meteor.meteor_p.wait()
