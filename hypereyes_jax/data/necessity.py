"""Whether a question needs each of its entities: the drop-one check (arXiv 2605.07177, visual synthesis)."""

from __future__ import annotations

from hypereyes_jax.data.types import SynthQuestion


def superfluous(synth: SynthQuestion) -> tuple[int, ...]:
    """Places of the shown entities without which the plan still arrives at the accepted answer; () = all are needed.

    An entity is left out as if its picture had not been searched: the plan is given the other names. An entity that the
    question does not depend on at all is superfluous, and so is the loser of a comparison: who skips it is right all
    the same. Of a question without pictures, the constraints are checked where it is drawn, and none is reported here.
    """
    oracle = synth.oracle
    if not oracle.boxes:
        return ()
    idle = [place for place in range(len(oracle.entities)) if place not in oracle.matter]
    names = oracle.true_names
    for number, place in enumerate(oracle.matter):
        without = [*names[:number], None, *names[number + 1 :]]
        if oracle.answer_from(without) in synth.question.answers:
            idle.append(place)
    return tuple(sorted(idle))


def all_needed(synth: SynthQuestion) -> bool:
    """Whether no entity shown can be left out."""
    return not superfluous(synth)
