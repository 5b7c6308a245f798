"""The page's first section: the best configuration, its score between floor and baselines, and what to think of it."""

import math
from html import escape
from typing import Any

from data_prep import page
from data_prep.page import Html
from search.pages.ladder import Line, finite, ladder, text_of
from search.pages.page import quiet, section, tiles
from search.pages.result import Result
from search.space import Choices, Domain, shown
from search.trials import TrialRow, score_text

SCORE = (
    "A score says how far generated records are from real ones, over how far real ones are from each other: "
    "1 is the floor, and lower is better."
)


def answer_section(result: Result) -> str:
    """The answer, or the leader so far."""
    leader, title = result.leader, "The answer" if result.best else "The leader so far"
    if leader is None:
        return section("answer", "The answer", quiet("No trial has reported a score yet."))
    return section(
        "answer",
        title,
        f'<p class="lead">{escape(_sentence(result, leader))}</p>',
        quiet(SCORE),
        tiles(_facts(result, leader)),
        *(f'<p class="doubt">{escape(doubt)}</p>' for doubt in _doubts(result)),
        ladder(_lines(result)),
        _parameters(result, leader),
    )


def ranked(result: Result) -> list[dict[str, Any]]:
    """The finalists, best first, once there is a verdict."""
    return result.best.get("finalists", {}).get("ranked", []) if result.best else []


def _sentence(result: Result, leader: TrialRow) -> str:
    if not result.best:
        return f"Trial {leader.trial_id} leads with a score of {score_text(leader.score)}; nothing is settled yet."
    verdict = result.best.get("finalists")
    if verdict is None:
        return f"Trial {leader.trial_id} is the best. It was trained once, so part of its score may be luck."
    seeds = _other_seeds(verdict["ranked"][0])
    return f"Trial {leader.trial_id} is the best, trained with {seeds}. {verdict['verdict']}"


def _facts(result: Result, leader: TrialRow) -> dict[str, tuple[object, str]]:
    """The figures that matter most."""
    facts: dict[str, tuple[object, str]] = {}
    if best := result.best:
        facts["Score on validation"] = text_of(best["validation"]["score"]), f"exported training, seed {best['seed']}"
        facts["Score on the test part"] = text_of(best["test"]["score"]), "opened once, for this generator"
    for one in ranked(result)[:1]:
        expected = f", and {text_of(one['expected'])} expected by the search" if "expected" in one else ""
        facts["Mean"] = text_of(one["mean"]), f"of {_scores(one)} with other seeds{expected}"
    facts["In the search"] = text_of(leader.score), f"trial {leader.trial_id}, one seed"
    if by_hand := [row for row in result.baselines if math.isfinite(row.score)]:
        first = min(by_hand, key=lambda row: row.score)
        facts["Best tuned by hand"] = text_of(first.score), _against(result, leader, first)
    return facts | {"Floor": (Html("1"), "real windows against real ones")}


def _other_seeds(one: dict[str, Any]) -> str:
    """How many other seeds a finalist was trained with."""
    count = len(one["scores"])
    return f"{count} other seed{'s' if count > 1 else ''}"


def _scores(one: dict[str, Any]) -> str:
    """A finalist's scores with other seeds."""
    low, high = text_of(one["lowest"]), text_of(one["highest"])
    return f"{low} to {high}" if len(one["scores"]) > 1 else low


def _against(result: Result, leader: TrialRow, by_hand: TrialRow) -> str:
    """What the best trial tuned by hand is to the leader, and to the seeds of the winner."""
    if leader.trial_id == by_hand.trial_id:
        return "which is the best of all"
    stopped = "" if by_hand.state == "complete" else f", though stopped at epoch {by_hand.epochs}"
    words = f"{by_hand.score / leader.score:.3g} times the best trial's, one seed each{stopped}"
    scores = [score for one in ranked(result)[:1] for score in one["scores"].values()]
    below = sum(score is not None and score < by_hand.score for score in scores)
    return f"{words}; {below} of the winner's {len(scores)} other seeds are lower" if scores else words


def _doubts(result: Result) -> list[str]:
    """What stands against trusting the answer."""
    if not result.best:
        return []
    test, found = result.best["test"], []
    if not test["resolvable"]:
        found.append("Too few windows or events to resolve the score: differences of this size may be chance.")
    if test["finalist/memorisation_memorised"]:
        found.append("It has memorised training records: what it generates lies closer to them than real records do.")
    return found


def _lines(result: Result) -> list[Line]:
    lines = []
    if result.best:
        scores = {part: result.best[part]["score"] for part in ("validation", "test")}
        words = f"● validation {text_of(scores['validation'])}  ○ test {text_of(scores['test'])}"
        lines.append(Line("exported generator", words, finite((score, part, "") for part, score in scores.items())))
    for one in ranked(result):
        trial_id, seeds = one["trial_id"], [(score, "seed", one["trial_id"]) for score in one["scores"].values()]
        words = f"mean {text_of(one['mean'])}, {_scores(one)}"
        dots = finite([*seeds, (one["mean"], "seeds", trial_id)])
        lines.append(Line(f"{trial_id}, {_other_seeds(one)}", words, dots))
    by_hand = finite((row.score, "baseline", row.trial_id) for row in result.baselines)
    lines.append(Line("tuned by hand", ", ".join(text_of(score) for score, *_ in by_hand), by_hand))
    every = finite((row.score, "all", row.trial_id) for row in result.rows)
    return [*lines, Line("every trial", f"{len(every)} trials, best {text_of(min(every)[0])}", every)]


def _parameters(result: Result, leader: TrialRow) -> str:
    """The best values, where in its range each lies, and those tuned by hand."""
    domains, baselines = result.config.domains, result.baselines
    if not domains:
        return quiet("No parameter was searched over.")
    body = []
    for key, domain in domains.items():
        value = leader.parameters.get(key)
        given = [page.Number(escape(shown(row.parameters.get(key, ""), 3))) for row in baselines]
        best = page.Number(f"<b>{escape(shown(value, 3))}</b>")
        body.append((Html(f"<code>{escape(key)}</code>"), best, _place(domain, value), str(domain), *given))
    head = ["parameter", "best", "in its range", "searched over", *(f"by hand, {row.trial_id}" for row in baselines)]
    return f"<h3>Its parameters</h3>{page.table(head, body)}"


def _place(domain: Domain, value: Any) -> Html:
    """Where a value lies in its range, drawn."""
    if isinstance(domain, Choices) or value not in domain:
        return Html()
    return Html(f'<span class="place"><i style="left:{domain.share(value):.0%}"></i></span>')
